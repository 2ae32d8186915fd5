/* pep788._shield: what `pep788 shield` puts in the place of functions that unmodified
 * modules import, and what about it Python cannot do.
 *
 * PyGILState_Ensure and Release are contract F11, PEP788_REPLACE_GILSTATE, as if the
 * caller had been recompiled.  Beside them:
 *
 *   pthread_exit    only in the object that is the interpreter, whose one caller is
 *                   PyThread_exit_thread.  gh-87135: up to 3.13.7 that is how a thread
 *                   that attaches too late is ended, from inside take_gil; here it
 *                   sleeps in that very place, as from 3.13.8 on, so there is no window
 *                   between a check and the attach.
 *   thread states   a state that an object makes itself, with PyThreadState_New on a
 *                   detached thread (pybind11 does), is guarded while it is attached or
 *                   has a Python frame.  On 3.14 CPython does not stop a fresh state
 *                   during teardown; after it the call crashes up to 3.14.
 *
 * Where imports are found and which of them are rewritten is Python: pep788/shield/. */

#define PY_SSIZE_T_CLEAN
#ifndef PEP788_ALWAYS
#  define PEP788_ALWAYS         /* late native callers hang, but callbacks in flight do not end (3.15) */
#endif
#define PEP788_REPLACE_GILSTATE
#define PEP788_MODULE_NAME "pep788.shield"
#include <Python.h>
#include <pep788.h>
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* Importing this module alone must not set guards up. */
#undef PyModuleDef_Init


/* --- who is inside -----------------------------------------------------------
 *
 * For the report: one node a thread, in its thread-local block, linked at its first
 * guarded call and unlinked when the thread exits. */

typedef struct Inside {
    struct Inside *next, **link;        /* list_lock; link: NULL while not listed */
    pep788_word caller;                 /* atomic: return address of what took the last guard */
    const pep788_word *gil_guard;       /* its thread's; read by others, for reports only */
    unsigned long native_id;
    PyThreadState *created;             /* by PyThreadState_New below, on this thread */
    pep788_word guard;                  /* held while `created` is attached or has a frame */
} Inside;

static PEP788_THREAD Inside self;
static Inside *inside_first;
static pep788_word list_lock;
static pthread_key_t thread_exit_key;
static pep788_word set_up_done;
static pep788_word at_start_up;     /* atomic: every Py_Initialize puts the shield up */

/* A thread that exits without a last Release protects nothing any more. */
static void
unlist(void *node)
{
    Inside *inside = node;
    pep788_finalizes_here();
    pep788_tls.gil_depth = pep788_tls.gil_attaches = 0;
    if (inside->guard != 0) {
        Pep788_LeaveInsider();
        pep788_close_guard(inside->guard);
        inside->guard = 0;
    }
    pep788_lock(&list_lock);
    *inside->link = inside->next;
    if (inside->next != NULL) {
        inside->next->link = inside->link;
    }
    inside->link = NULL;
    pep788_unlock(&list_lock);
}

static void
list_self(void)
{
    if (pthread_setspecific(thread_exit_key, &self) != 0) {
        return;     /* no memory: not in the report */
    }
#ifdef PY_HAVE_THREAD_NATIVE_ID
    self.native_id = PyThread_get_thread_native_id();
#endif
    self.gil_guard = &pep788_tls.gil_guard;
    pep788_lock(&list_lock);
    self.next = inside_first;
    self.link = &inside_first;
    if (self.next != NULL) {
        self.next->link = &self.next;
    }
    inside_first = &self;
    pep788_unlock(&list_lock);
}

static inline void
enter_from(void *caller)
{
    if (self.link == NULL) {
        list_self();
    }
    pep788_store_relaxed(&self.caller, (pep788_word)caller);
}

static inline int
is_inside(const Inside *it)
{
    return pep788_load_relaxed(it->gil_guard) != 0 || pep788_load_relaxed(&it->guard) != 0;
}

/* The nodes of other threads were in stacks that are being reused. */
static void
forget_other_threads(void)
{
    int listed = self.link != NULL;
    pep788_store_relaxed(&list_lock, (pep788_word)0);
    inside_first = NULL;
    self.link = NULL;
    if (listed) {
        list_self();
    }
}

typedef struct {
    pep788_word caller;
    unsigned long native_id;
} Seen;

#define SEEN_MAX 32

static size_t
look_inside(Seen *seen)
{
    size_t n = 0;
    Inside *it;
    pep788_lock(&list_lock);
    for (it = inside_first; it != NULL && n < SEEN_MAX; it = it->next) {
        if (it != &self && is_inside(it)) {
            seen[n].caller = pep788_load_relaxed(&it->caller);
            seen[n].native_id = it->native_id;
            n++;
        }
    }
    pep788_unlock(&list_lock);
    return n;
}

static const char *
object_of(pep788_word address)
{
    Dl_info info;
    if (dladdr((void *)address, &info) == 0 || info.dli_fname == NULL) {
        return "unknown object";
    }
    return info.dli_fname;
}

/* Called by the header's report. */
static void
describe(pep788_record *record)
{
    Seen seen[SEEN_MAX];
    size_t i, n;
    if (record != &pep788_shared.main) {
        return;
    }
    n = look_inside(seen);
    for (i = 0; i < n; i++) {
        PySys_FormatStderr("pep788:     thread with native id %lu, called by %s\n",
                           seen[i].native_id, object_of(seen[i].caller));
    }
}


/* --- the replaced functions -------------------------------------------------- */

/* An embedding program has initialized Python again, and it may be at it still: where
 * start-up puts the shield up (PEP788_SHIELD), detached threads wait for that.  Bounded,
 * because this time it may not: without site, or with the environment ignored. */
#define AWAIT_SECONDS 5.0

static void
await_set_up(void)
{
    struct timespec pause = {0, 1000000L};
    double end = pep788_now() + AWAIT_SECONDS;
    while (pep788_load_acquire(&pep788_shared.main.status) == PEP788_ENDED
           && Py_IsInitialized() && pep788_current() == NULL && pep788_now() < end) {
        (void)nanosleep(&pause, NULL);
    }
}

static PyGILState_STATE
shield_PyGILState_Ensure(void)
{
    if (pep788_tls.gil_depth == 0) {
        if (pep788_load_acquire(&pep788_shared.main.status) == PEP788_ENDED
            && pep788_load_acquire(&at_start_up) != 0) {
            await_set_up();
        }
        enter_from(__builtin_return_address(0));
    }
    return PyGILState_Ensure();
}

static void
shield_PyGILState_Release(PyGILState_STATE state)
{
    PyGILState_Release(state);
}

/* Also for the end of a thread by PyThread_exit_thread in an extension. */
static void
shield_pthread_exit(void *value)
{
    if (pep788_too_late()) {
        pep788_park();
    }
    pthread_exit(value);
}

/* F9 refuses threads that hold nothing while finalization waits for those inside.
 * This one may be needed by them (a thread that one of them joins), and whether the end
 * comes is not settled, so it is not parked: it is held back, then let in, which keeps
 * threads that attach without a pause from starving the wait. */
#define HELD_BACK_MS 50

/* A guard of the main interpreter for a detached thread.  0: there is none to be had and
 * the thread may go on (it is the one that finalizes).  Too late for all others: parked. */
static pep788_word
guard_or_park(void)
{
    struct timespec pause = {0, HELD_BACK_MS * 1000000L};
    pep788_record *main_record = &pep788_shared.main;
    pep788_thread *this_thread = pep788_this_thread();
    pep788_word guard = pep788_open_guard(this_thread, main_record);
    if (guard == 0 && pep788_load_acquire(&main_record->status) == PEP788_LIVE) {
        (void)nanosleep(&pause, NULL);
        Pep788_EnterInsider();
        guard = pep788_open_guard(this_thread, main_record);
        Pep788_LeaveInsider();
    }
    /* Initialized again by a program that has not enabled the shield again. */
    if (guard == 0 && !(pep788_reason(main_record) == PEP788_GONE && Py_IsInitialized())) {
        pep788_gil_refused();
    }
    return guard;
}

static PyThreadState *
shield_PyThreadState_New(PyInterpreterState *interp)
{
    pep788_word guard;
    PyThreadState *fresh;
    if (pep788_current() != NULL) {
        return PyThreadState_New(interp);
    }
    guard = guard_or_park();
    fresh = PyThreadState_New(interp);
    self.created = fresh;
    if (guard != 0) {
        pep788_close_guard(guard);
    }
    return fresh;
}

static inline void
before_attach(PyThreadState *tstate, void *caller)
{
    if (tstate == NULL || tstate != self.created || self.guard != 0) {
        return;
    }
    self.guard = guard_or_park();
    if (self.guard != 0) {
        Pep788_EnterInsider();
        enter_from(caller);
    }
}

/* With a Python frame on it, it is a callback that lets others run for a while: the guard
 * stays.  Without one it may be a state at rest until the next callback. */
static inline int
is_at_rest(void)
{
    return self.guard != 0 && pep788_current() == self.created && PyEval_GetFrame() == NULL;
}

static inline void
after_detach(PyThreadState *tstate)
{
    if (self.guard != 0 && tstate == self.created) {
        pep788_word guard = self.guard;
        self.guard = 0;
        Pep788_LeaveInsider();
        pep788_close_guard(guard);
    }
}

static void
shield_PyEval_AcquireThread(PyThreadState *tstate)
{
    before_attach(tstate, __builtin_return_address(0));
    PyEval_AcquireThread(tstate);
}

static void
shield_PyEval_RestoreThread(PyThreadState *tstate)
{
    before_attach(tstate, __builtin_return_address(0));
    PyEval_RestoreThread(tstate);
}

static void
shield_PyEval_ReleaseThread(PyThreadState *tstate)
{
    int rests = is_at_rest();
    PyEval_ReleaseThread(tstate);
    if (rests) {
        after_detach(tstate);
    }
}

static PyThreadState *
shield_PyEval_SaveThread(void)
{
    int rests = is_at_rest();
    PyThreadState *tstate = PyEval_SaveThread();
    if (rests) {
        after_detach(tstate);
    }
    return tstate;
}

static void
shield_PyThreadState_DeleteCurrent(void)
{
    PyThreadState *tstate = pep788_current();
    PyThreadState_DeleteCurrent();
    after_detach(tstate);
    if (tstate == self.created) {
        self.created = NULL;
    }
}

/* The thread that finalizes would wait for its own guard. */
static void
finalizes_here(void)
{
    pep788_finalizes_here();
    if (self.guard != 0) {
        after_detach(self.created);
    }
}

typedef void (*Function)(void);

/* The list of what is replaced; pep788.shield takes its names from here. */
#define FOR_EACH_REPLACED(X) \
    X(PyGILState_Ensure) \
    X(PyGILState_Release) \
    X(PyThreadState_New) \
    X(PyThreadState_DeleteCurrent) \
    X(PyEval_AcquireThread) \
    X(PyEval_ReleaseThread) \
    X(PyEval_SaveThread) \
    X(PyEval_RestoreThread) \
    X(pthread_exit)

#define REPLACED(name) {#name, (Function)shield_##name},
static const struct {
    const char *name;
    Function replacement;
} replaced[] = {FOR_EACH_REPLACED(REPLACED)};


/* --- what Python cannot do ---------------------------------------------------- */

/* Under the loader's lock, where neither Python may run nor the GIL be waited for:
 * another thread may be in dlopen and want it. */
typedef struct {
    ElfW(Addr) base;
    const char *name;
    const ElfW(Phdr) *headers;
    unsigned count;
} Loaded;

typedef struct {
    unsigned long long known, adds;
    Loaded *items;
    char *names;                /* copies: the object may be unloaded any time */
    size_t n, capacity, used, room;
    int failed;
} Loading;

static int
collect(struct dl_phdr_info *info, size_t size, void *arg)
{
    Loading *all = arg;
    const char *name = info->dlpi_name == NULL ? "" : info->dlpi_name;
    size_t length = strlen(name) + 1;
    (void)size;
    all->adds = info->dlpi_adds;
    if (all->adds == all->known) {
        return 1;
    }
    if (all->n == all->capacity) {
        size_t capacity = all->capacity == 0 ? 256 : 2 * all->capacity;
        Loaded *items = realloc(all->items, capacity * sizeof(Loaded));
        if (items == NULL) {
            all->failed = 1;
            return 1;
        }
        all->items = items;
        all->capacity = capacity;
    }
    if (all->room - all->used < length) {
        size_t room = 2 * all->room + length + 4096;
        char *names = realloc(all->names, room);
        if (names == NULL) {
            all->failed = 1;
            return 1;
        }
        all->names = names;
        all->room = room;
    }
    memcpy(all->names + all->used, name, length);
    all->items[all->n].base = info->dlpi_addr;
    all->items[all->n].name = (const char *)(uintptr_t)all->used;   /* an offset, names may move */
    all->items[all->n].headers = info->dlpi_phdr;
    all->items[all->n].count = info->dlpi_phnum;
    all->used += length;
    all->n++;
    return 0;
}

static PyObject *
shield_objects(PyObject *module, PyObject *argument)
{
    Loading all;
    PyObject *list = NULL;
    size_t i;
    memset(&all, 0, sizeof(all));
    all.known = PyLong_AsUnsignedLongLong(argument);
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    (void)dl_iterate_phdr(collect, &all);
    Py_END_ALLOW_THREADS
    if (all.failed) {
        PyErr_NoMemory();
        goto done;
    }
    list = PyList_New(0);
    for (i = 0; list != NULL && i < all.n; i++) {
        Loaded *it = &all.items[i];
        PyObject *name = PyUnicode_DecodeFSDefault(all.names + (uintptr_t)it->name);
        PyObject *item = name == NULL ? NULL
                         : Py_BuildValue("KNKI", (unsigned long long)it->base, name,
                                         (unsigned long long)(uintptr_t)it->headers, it->count);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
done:
    free(all.items);
    free(all.names);
    return list == NULL ? NULL : Py_BuildValue("KN", all.adds, list);
}

/* ctypes could do this, but an embedding program that initializes Python again crashes when
 * it is imported the second time (3.12: free() of an invalid pointer in its cache). */
static PyObject *
shield_read(PyObject *module, PyObject *args)
{
    unsigned long long address;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "Kn", &address, &size)) {
        return NULL;
    }
    return PyBytes_FromStringAndSize((const char *)(uintptr_t)address, size);
}

/* While it is pinned an object is not unloaded. */
static PyObject *
shield_pin(PyObject *module, PyObject *args)
{
    PyObject *name;
    unsigned long long base;
    void *handle;
    struct link_map *map = NULL;
    if (!PyArg_ParseTuple(args, "O&K", PyUnicode_FSConverter, &name, &base)) {
        return NULL;
    }
    handle = dlopen(PyBytes_AS_STRING(name), RTLD_LAZY | RTLD_NOLOAD);
    Py_DECREF(name);
    if (handle != NULL && (dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0 || map->l_addr != (ElfW(Addr))base)) {
        (void)dlclose(handle);      /* another one of that name */
        handle = NULL;
    }
    return PyLong_FromVoidPtr(handle);
}

static PyObject *
shield_unpin(PyObject *module, PyObject *argument)
{
    void *handle = PyLong_AsVoidPtr(argument);
    if (handle == NULL && PyErr_Occurred()) {
        return NULL;
    }
    (void)dlclose(handle);
    Py_RETURN_NONE;
}

/* One aligned store, seen by other threads as the old value or the new one. */
static PyObject *
shield_exchange(PyObject *module, PyObject *args)
{
    unsigned long long slot, expected, value;
    int read_only, failure = 0;
    pep788_word seen;
    uintptr_t page;
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    if (!PyArg_ParseTuple(args, "KKKp", &slot, &expected, &value, &read_only)) {
        return NULL;
    }
    if (slot == 0 || slot % sizeof(void *) != 0) {
        PyErr_SetString(PyExc_ValueError, "a slot is an aligned address");
        return NULL;
    }
    page = (uintptr_t)slot & ~(uintptr_t)(size - 1);
    if (read_only && mprotect((void *)page, size, PROT_READ | PROT_WRITE) != 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    seen = (pep788_word)expected;
    failure = !pep788_cas_seq_cst((pep788_word *)(uintptr_t)slot, &seen, (pep788_word)value);
    if (read_only && mprotect((void *)page, size, PROT_READ) != 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyBool_FromLong(!failure);
}

static PyObject *
shield_set_up(PyObject *module, PyObject *args)
{
    int from_start_up;
    if (!PyArg_ParseTuple(args, "p", &from_start_up) || Pep788_Init() < 0) {
        return NULL;
    }
    pep788_shared.ops.describe = describe;
    pep788_shared.ops.finalizes_here = finalizes_here;
    if (pep788_load_acquire(&set_up_done) == 0) {       /* one thread: pep788.shield holds its lock */
        if (pthread_key_create(&thread_exit_key, unlist) != 0) {
            return PyErr_NoMemory();
        }
        (void)pthread_atfork(NULL, NULL, forget_other_threads);
        pep788_store_release(&set_up_done, (pep788_word)1);
    }
    pep788_store_release(&at_start_up, (pep788_word)from_start_up);
    Py_RETURN_NONE;
}

static PyObject *
shield_set_limit(PyObject *module, PyObject *argument)
{
    pep788_coordinator *c = PEP788_PTR(pep788_coordinator, pep788_shared.main.coordinator);
    double before, limit = PyFloat_AsDouble(argument);
    if (limit == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    if (c == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "call set_up() first");
        return NULL;
    }
    before = c->give_up_after;
    c->give_up_after = limit;
    return PyFloat_FromDouble(before);
}

static PyObject *
shield_is_main(PyObject *module, PyObject *unused)
{
    return PyBool_FromLong(PyInterpreterState_Get() == PyInterpreterState_Main());
}

static PyObject *
shield_inside(PyObject *module, PyObject *unused)
{
    Seen seen[SEEN_MAX];
    size_t i, n = look_inside(seen);
    PyObject *list = PyList_New(0);
    for (i = 0; list != NULL && i < n; i++) {
        PyObject *name = PyUnicode_DecodeFSDefault(object_of(seen[i].caller));
        PyObject *item = name == NULL ? NULL : Py_BuildValue("kN", seen[i].native_id, name);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *
shield_keep(PyObject *module, PyObject *list)
{
    Py_ssize_t i, n = PyList_Size(list);
    for (i = 0; i < n; i++) {
        Py_INCREF(PyList_GetItem(list, i));
    }
    return n < 0 ? NULL : PyLong_FromSsize_t(n);
}

static PyMethodDef shield_methods[] = {
    {"objects", shield_objects, METH_O,
     "objects(known_adds) -> (adds, [(base, name, address of program headers, their count)]).\n"
     "The list is empty if no object was loaded since the loader's count was `known_adds`."},
    {"read", shield_read, METH_VARARGS, "read(address, size) -> bytes.  It must be mapped."},
    {"pin", shield_pin, METH_VARARGS,
     "pin(name, base) -> handle that keeps a loaded object loaded; 0 if it is not there any more."},
    {"unpin", shield_unpin, METH_O, "unpin(handle): the object may be unloaded again."},
    {"exchange", shield_exchange, METH_VARARGS,
     "exchange(slot, expected, value, read_only) -> whether the slot held what was expected and\n"
     "was written.  The address must be mapped; read_only: its page is, and is made so again."},
    {"set_up", shield_set_up, METH_VARARGS,
     "set_up(at_start_up): make this interpreter wait for guards; at_start_up: every Py_Initialize\n"
     "of this process will call this."},
    {"set_limit", shield_set_limit, METH_O,
     "set_limit(seconds) -> seconds before: how long finalization waits at most, negative: for ever."},
    {"keep", shield_keep, METH_O, "keep(list): its objects are never destroyed."},
    {"is_main", shield_is_main, METH_NOARGS, "Whether this is the main interpreter."},
    {"inside", shield_inside, METH_NOARGS,
     "inside() -> [(native thread id, object that called)] of other threads that hold a guard."},
    {NULL, NULL, 0, NULL},
};

/* functions: {name: (address of the original, address of the replacement)} */
static int
shield_exec(PyObject *module)
{
    PyObject *functions = PyDict_New();
    size_t i;
    for (i = 0; functions != NULL && i < sizeof(replaced) / sizeof(replaced[0]); i++) {
        void *original = dlsym(RTLD_DEFAULT, replaced[i].name);
        PyObject *pair = Py_BuildValue("KK", (unsigned long long)(uintptr_t)original,
                                       (unsigned long long)(uintptr_t)replaced[i].replacement);
        if (pair == NULL || PyDict_SetItemString(functions, replaced[i].name, pair) < 0) {
            Py_CLEAR(functions);
        }
        Py_XDECREF(pair);
    }
    if (functions == NULL) {
        return -1;
    }
    if (PyModule_AddObject(module, "functions", functions) < 0) {
        Py_DECREF(functions);
        return -1;
    }
    return 0;
}

static PyModuleDef_Slot shield_slots[] = {
    {Py_mod_exec, shield_exec},
#ifdef Py_mod_multiple_interpreters     /* 3.12 */
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil                       /* 3.13 */
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static PyModuleDef shield_module = {
    PyModuleDef_HEAD_INIT,
    "pep788._shield",
    "The functions that pep788.shield puts in place; see that package.",
    0,
    shield_methods,
    shield_slots,
    NULL,
    NULL,
    NULL,
};

PyMODINIT_FUNC
PyInit__shield(void)
{
    return PyModuleDef_Init(&shield_module);
}
