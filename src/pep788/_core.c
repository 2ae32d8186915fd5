/* pep788._core: guards and views for Python code, a thin binding over pep788.h.
 *
 * The one thing the header cannot know is whether a Python-level guard is still
 * in use.  A C caller closes what it opened; a Python object may be left in a
 * global, in a suspended generator or in an ExitStack that nobody will ever
 * close.  So that such a guard never holds the process, it is dropped when no
 * thread can be inside its block any more:
 *
 *   R1  the object is gone: tp_dealloc closes the guard;
 *   R2  the thread that entered it has ended.  An Owner in that thread state's
 *       dict is destroyed by PyThreadState_Clear and drops what it still owns;
 *   R3  the thread that entered it is the one that finalizes the interpreter.
 *       It cannot be inside a block and finalize at once, and it cannot be
 *       stopped by finalization either.  Our atexit callback, which runs on it,
 *       drops its guards; those it enters afterwards (in later callbacks) are
 *       checked and closed at once.
 *
 * Everything else holds, so a thread inside the block is never stopped there.
 *
 * Compiled with PEP788_ALWAYS: on 3.15+ a native guard would hang the child of a
 * fork and could be starved (F1, F9). */

#include "_core.h"
#include <stdlib.h>

#if defined(_MSC_VER)
#  include <intrin.h>
#  include <windows.h>
#else
#  include <pthread.h>
#  include <sched.h>
#endif


/* --- the process-wide list of entered guards -------------------------------
 *
 * Process-wide, because the main interpreter waits for the guards of every
 * interpreter and R3 must reach them all.  Interpreters with a GIL of their own
 * (3.12+) and free-threaded builds share no lock that fork can repair and 3.12
 * has (PyMutex: 3.13+), hence a spin lock.  It is held for a few instructions,
 * and nothing under it calls Python, allocates or closes a guard. */

static volatile long list_lock;
static volatile long atfork_installed;

#if defined(_MSC_VER)
static long
exchange_acq_rel(volatile long *p, long value)
{
    return _InterlockedExchange(p, value);
}

static void
relax(void)
{
    (void)SwitchToThread();
}
#else
static long
exchange_acq_rel(volatile long *p, long value)
{
    return __atomic_exchange_n(p, value, __ATOMIC_ACQ_REL);
}

static void
relax(void)
{
    (void)sched_yield();
}
#endif

static void
lock_list(void)
{
    while (exchange_acq_rel(&list_lock, 1) != 0) {
        relax();
    }
}

static void
unlock_list(void)
{
    (void)exchange_acq_rel(&list_lock, 0);
}

/* A thread that vanishes in a fork must not take the lock with it. */
static int
install_atfork(void)
{
#if !defined(_MSC_VER)
    if (exchange_acq_rel(&atfork_installed, 1) == 0
        && pthread_atfork(lock_list, unlock_list, unlock_list) != 0) {
        (void)exchange_acq_rel(&atfork_installed, 0);
        PyErr_NoMemory();
        return -1;
    }
#else
    (void)atfork_installed;
#endif
    return 0;
}


/* --- types ------------------------------------------------------------------ */

/* Our atexit callback on one interpreter; everything under the list lock. */
typedef struct {
    int armed;                  /* the callback is in the registry */
    unsigned long finalizer;    /* the thread that ran it, else 0 */
    int refs;                   /* of the module state and the callback */
} Seam;

typedef struct {
    PyTypeObject *guard_type;
    PyTypeObject *view_type;
    PyTypeObject *owner_type;
    PyObject *finalization_error;
    Seam *seam;
} CoreState;

/* The entering thread's end, as an object: see R2. */
typedef struct {
    PyObject_HEAD
    unsigned long thread;
    long debts;                 /* LeaveInsider calls this thread still owes */
} Owner;

typedef struct {
    PyObject_HEAD
    PyInterpreterView *view;
    long long interp_id;
} View;

typedef enum { IDLE, ENTERING, ENTERED } Phase;

typedef struct Guard {
    PyObject_HEAD
    View *view;                 /* NULL: the current interpreter */
    /* Under the list lock: */
    Phase phase;
    PyInterpreterGuard *held;   /* NULL while ENTERED: dropped, see R1-R3 */
    unsigned long thread;
    PyThreadState *tstate;      /* compared, never followed */
    long long interp_id;
    Owner *owner;               /* borrowed; an Owner unlinks its guards first */
    struct Guard *prev, *next;
} Guard;

static Guard *entered_first;
static Seam main_seam;          /* of the main interpreter, never freed */

/* 3.10+; before, a heap type's attributes can be replaced from Python. */
#ifdef Py_TPFLAGS_IMMUTABLETYPE
#  define CORE_TPFLAGS \
    (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE)
#else
#  define CORE_TPFLAGS (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC)
#endif

static CoreState *
state_of_module(PyObject *module)
{
    return (CoreState *)PyModule_GetState(module);
}

static CoreState *
state_of_type(PyTypeObject *type)
{
    return (CoreState *)PyType_GetModuleState(type);
}

static long long
current_interp_id(void)
{
    return (long long)PyInterpreterState_GetID(PyInterpreterState_Get());
}


/* --- entering and leaving, on the C side ------------------------------------ */

static void
link_guard(Guard *self)
{
    self->prev = NULL;
    self->next = entered_first;
    if (entered_first != NULL) {
        entered_first->prev = self;
    }
    entered_first = self;
}

/* What is left to do outside the lock once a guard was taken off the list. */
typedef struct {
    PyInterpreterGuard *held;
    int leave_insider;
} Taken;

static Taken
take_guard(Guard *self)
{
    Taken taken = {self->held, 0};
    if (self->held == NULL) {
        return taken;
    }
    if (self->prev != NULL) {
        self->prev->next = self->next;
    }
    else {
        entered_first = self->next;
    }
    if (self->next != NULL) {
        self->next->prev = self->prev;
    }
    if (self->thread == PyThread_get_thread_ident()) {
        taken.leave_insider = 1;
    }
    else if (self->owner != NULL) {
        /* The mark belongs to another OS thread, which clears it when it
           enters its next guard. */
        self->owner->debts++;
    }
    self->held = NULL;
    self->owner = NULL;
    self->prev = self->next = NULL;
    return taken;
}

static void
finish_taken(Taken taken)
{
    if (taken.leave_insider) {
        Pep788_LeaveInsider();
    }
    if (taken.held != NULL) {
        PyInterpreterGuard_Close(taken.held);
    }
}

static void
settle_debts(Owner *owner)
{
    lock_list();
    long debts = owner->debts;
    owner->debts = 0;
    unlock_list();
    for (; debts > 0; debts--) {
        Pep788_LeaveInsider();
    }
}

typedef int (*GuardFilter)(const Guard *, const void *);

static void
drop_guards(GuardFilter wanted, const void *arg)
{
    for (;;) {
        lock_list();
        Guard *guard = entered_first;
        while (guard != NULL && !wanted(guard, arg)) {
            guard = guard->next;
        }
        Taken taken = {NULL, 0};
        if (guard != NULL) {
            taken = take_guard(guard);
        }
        unlock_list();
        if (taken.held == NULL) {
            return;
        }
        finish_taken(taken);
    }
}


/* --- R2: guards end with the thread that entered them ----------------------- */

static int
owned_by(const Guard *guard, const void *owner)
{
    return guard->owner == (const Owner *)owner;
}

static int
owner_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static void
owner_dealloc(PyObject *op)
{
    Owner *self = (Owner *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    drop_guards(owned_by, self);
    /* Thread states are also cleared by others: by finalization, and by the
       surviving thread in the child of a fork. */
    if (self->thread == PyThread_get_thread_ident()) {
        settle_debts(self);
    }
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyType_Slot owner_slots[] = {
    {Py_tp_dealloc, owner_dealloc},
    {Py_tp_traverse, owner_traverse},
    {0, NULL},
};

static PyType_Spec owner_spec = {
    "pep788._core._Owner", sizeof(Owner), 0,
    CORE_TPFLAGS, owner_slots,
};

/* Borrowed: the thread state's dict keeps it. */
static Owner *
current_owner(CoreState *state)
{
    PyObject *dict = PyThreadState_GetDict();
    if (dict == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    PyObject *key = (PyObject *)state->owner_type;
    PyObject *found = PyDict_GetItemWithError(dict, key);
    if (found != NULL) {
        return (Owner *)found;
    }
    if (PyErr_Occurred()) {
        return NULL;
    }
    Owner *owner = PyObject_GC_New(Owner, state->owner_type);
    if (owner == NULL) {
        return NULL;
    }
    owner->thread = PyThread_get_thread_ident();
    owner->debts = 0;
    PyObject_GC_Track(owner);
    int failed = PyDict_SetItem(dict, key, (PyObject *)owner);
    Py_DECREF(owner);
    return failed ? NULL : owner;
}


/* --- R3: guards of the finalizing thread ------------------------------------ */

typedef struct {
    unsigned long thread;
    PyThreadState *tstate;      /* 3.9-3.12: _xxsubinterpreters runs code of any
                                   thread in the one that also ends it, gh-109860 */
    long long interp_id;        /* 0, the main interpreter, means every one */
} Finalizer;

static int
entered_by_finalizer(const Guard *guard, const void *arg)
{
    const Finalizer *finalizer = (const Finalizer *)arg;
    return (guard->thread == finalizer->thread || guard->tstate == finalizer->tstate)
           && (finalizer->interp_id == 0
               || guard->interp_id == finalizer->interp_id);
}

static int
held_here(const Guard *guard, long long interp_id)
{
    return interp_id == 0 || guard->interp_id == interp_id;
}

/* An entered guard in a reference cycle is gone (R1) only once the collector
   has run, and nothing collects before the wait. */
static int
collect_garbage_if_guards_are_open(long long interp_id)
{
    lock_list();
    Guard *guard = entered_first;
    while (guard != NULL && !held_here(guard, interp_id)) {
        guard = guard->next;
    }
    unlock_list();
    if (guard == NULL) {
        return 0;
    }
    PyObject *gc = PyImport_ImportModule("gc");
    if (gc == NULL) {
        return -1;
    }
    /* Not PyGC_Collect(): that does nothing after gc.disable(). */
    PyObject *found = PyObject_CallMethod(gc, "collect", NULL);
    Py_DECREF(gc);
    if (found == NULL) {
        return -1;
    }
    Py_DECREF(found);
    return 0;
}

static void
drop_guards_of_this_thread(Seam *seam)
{
    Finalizer finalizer = {
        PyThread_get_thread_ident(), PyThreadState_Get(), current_interp_id()};
    lock_list();
    seam->finalizer = finalizer.thread;
    unlock_list();
    drop_guards(entered_by_finalizer, &finalizer);
}

static void
release_seam(Seam *seam)
{
    lock_list();
    int last = seam != &main_seam && --seam->refs == 0;
    unlock_list();
    if (last) {
        free(seam);
    }
}

#define SEAM_CAPSULE "pep788._core.seam"

static PyObject *
at_exit(PyObject *capsule, PyObject *Py_UNUSED(ignored))
{
    Seam *seam = (Seam *)PyCapsule_GetPointer(capsule, SEAM_CAPSULE);
    if (seam == NULL || PyCapsule_SetContext(capsule, seam) < 0) {
        return NULL;
    }
    drop_guards_of_this_thread(seam);
    if (collect_garbage_if_guards_are_open(current_interp_id()) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef at_exit_method = {
    "pep788_drop_left_guards", at_exit, METH_NOARGS,
    "Drops the guards that the finalizing thread left entered.",
};

static void arm_main(void *);

/* A pending call, which a real end does not make before the header's seam passes. */
static int
arm_main_later(void *Py_UNUSED(ignored))
{
    if (!pep788_too_late() && current_interp_id() == 0 && !pep788_seam_passed()) {
        arm_main(NULL);
    }
    return 0;
}

/* The registry was emptied: at the end, or by atexit._clear() or
   atexit._run_exitfuncs() in an interpreter that lives on (N3).  A callback that
   was never called was cleared, or registered while the others ran. */
static void
at_exit_forgotten(PyObject *capsule)
{
    Seam *seam = (Seam *)PyCapsule_GetPointer(capsule, SEAM_CAPSULE);
    int called = PyCapsule_GetContext(capsule) != NULL;
    if (!called) {
        drop_guards_of_this_thread(seam);
    }
    lock_list();
    seam->armed = 0;
    if (!called) {
        seam->finalizer = 0;
    }
    unlock_list();
    /* N3: a guard that is entered already must not wait for the next one to have
       the callback back. In a subinterpreter it does. */
    if (seam == &main_seam && !pep788_too_late()) {
        (void)Py_AddPendingCall(arm_main_later, NULL);
    }
    release_seam(seam);
}

static int
register_at_exit(Seam *seam)
{
    PyObject *capsule = PyCapsule_New(seam, SEAM_CAPSULE, NULL);
    if (capsule == NULL) {
        return -1;
    }
    int status = pep788_call_at_exit(&at_exit_method, capsule);
    if (status == 0) {
        (void)PyCapsule_SetDestructor(capsule, at_exit_forgotten);
    }
    Py_DECREF(capsule);
    return status;
}

/* Attached to the seam's interpreter. */
static int
arm(Seam *seam)
{
    lock_list();
    int armed = seam->armed;
    if (!armed) {
        seam->armed = 1;
        seam->finalizer = 0;
        seam->refs++;
    }
    unlock_list();
    if (armed || register_at_exit(seam) == 0) {
        return 0;
    }
    lock_list();
    seam->armed = 0;
    unlock_list();
    release_seam(seam);
    return -1;
}

/* N3: arm again after the registry was emptied in an interpreter that lives on.
   While an interpreter is really being finalized (the header's seam has passed)
   only its finalizing thread may do so: a callback registered during the wait
   makes 3.15 (and our wait) go round once more, and a daemon thread would do that
   for ever. */
static int
arm_again_if_needed(Seam *seam)
{
    unsigned long me = PyThread_get_thread_ident();
    lock_list();
    int needed = !seam->armed && (seam->finalizer == 0 || seam->finalizer == me
                                  || !pep788_seam_passed());
    unlock_list();
    return needed ? arm(seam) : 0;
}

static void
arm_main(void *Py_UNUSED(ignored))
{
    if (arm(&main_seam) < 0) {
        PyErr_Clear();
    }
}

/* The main interpreter waits for the guards of subinterpreters too, so its seam
   is needed even if only they imported us. Best effort: without it a guard that
   the main thread left in a subinterpreter that is never ended holds on. */
static void
arm_main_from_subinterpreter(void)
{
    lock_list();
    int needed = !main_seam.armed && main_seam.finalizer == 0;
    unlock_list();
    PyInterpreterView *view = needed ? PyInterpreterView_FromMain() : NULL;
    PyInterpreterGuard *held = view == NULL ? NULL : PyInterpreterGuard_FromView(view);
    if (held != NULL) {
        (void)pep788_visit_main(Pep788_GuardInterpreter(held), arm_main, NULL);
        PyInterpreterGuard_Close(held);
    }
    PyInterpreterView_Close(view);
}

static Seam *
new_seam(void)
{
    if (current_interp_id() == 0) {
        return &main_seam;
    }
    Seam *seam = (Seam *)calloc(1, sizeof(Seam));
    if (seam == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    seam->refs = 1;
    return seam;
}

static int
is_finalizing_thread(CoreState *state)
{
    unsigned long me = PyThread_get_thread_ident();
    lock_list();
    int found = (state->seam->armed && state->seam->finalizer == me)
                || (main_seam.armed && main_seam.finalizer == me);
    unlock_list();
    return found;
}


/* --- pep788.guard ----------------------------------------------------------- */

static void
raise_no_guard_of_current(CoreState *state)
{
    /* 3.9-3.12 have no PythonFinalizationError: the header raises its base. */
    if (PyErr_ExceptionMatches(PyExc_RuntimeError)) {
        PyErr_SetString(state->finalization_error,
                        "the interpreter is finalizing and gives no more "
                        "guards; let this thread end without calling Python "
                        "code that must not be interrupted");
    }
}

static void
raise_no_guard_of_view(CoreState *state, View *view)
{
    switch (Pep788_LastFailure()) {
    case PEP788_NO_MEMORY:
        PyErr_NoMemory();
        return;
    case PEP788_NOT_INITIALIZED:
        PyErr_Format(PyExc_RuntimeError,
                     "interpreter %lld has no guards yet; import pep788 there "
                     "first", view->interp_id);
        return;
    case PEP788_GONE:
        PyErr_Format(state->finalization_error,
                     "interpreter %lld no longer exists; drop this view",
                     view->interp_id);
        return;
    default:
        PyErr_Format(state->finalization_error,
                     "interpreter %lld is finalizing and gives no more guards; "
                     "let this thread end", view->interp_id);
        return;
    }
}

static PyInterpreterGuard *
acquire(CoreState *state, View *view)
{
    PyInterpreterGuard *held;
    if (view == NULL) {
        held = PyInterpreterGuard_FromCurrent();
        if (held == NULL) {
            raise_no_guard_of_current(state);
        }
    }
    else {
        held = PyInterpreterGuard_FromView(view->view);
        if (held == NULL) {
            raise_no_guard_of_view(state, view);
        }
    }
    return held;
}

static PyObject *
new_guard(CoreState *state, View *view)
{
    Guard *self = PyObject_GC_New(Guard, state->guard_type);
    if (self == NULL) {
        return NULL;
    }
    Py_XINCREF(view);
    self->view = view;
    self->phase = IDLE;
    self->held = NULL;
    self->thread = 0;
    self->tstate = NULL;
    self->interp_id = 0;
    self->owner = NULL;
    self->prev = self->next = NULL;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static PyObject *
guard_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":guard", keywords)) {
        return NULL;
    }
    CoreState *state = state_of_type(type);
    return state == NULL ? NULL : new_guard(state, NULL);
}

static int
guard_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((Guard *)op)->view);
    return 0;
}

static int
guard_clear(PyObject *op)
{
    Py_CLEAR(((Guard *)op)->view);
    return 0;
}

static void
guard_dealloc(PyObject *op)
{
    Guard *self = (Guard *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    lock_list();
    Taken taken = take_guard(self);
    unlock_list();
    finish_taken(taken);
    (void)guard_clear(op);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static int
begin_enter(Guard *self)
{
    lock_list();
    int free_to_enter = self->phase == IDLE;
    if (free_to_enter) {
        self->phase = ENTERING;
    }
    unlock_list();
    if (!free_to_enter) {
        PyErr_SetString(PyExc_RuntimeError,
                        "this guard is already entered; write "
                        "'with pep788.guard():' for each block");
        return -1;
    }
    return 0;
}

static void
end_enter(Guard *self, Phase phase, PyInterpreterGuard *held, Owner *owner)
{
    lock_list();
    self->phase = phase;
    self->held = held;
    if (held != NULL) {
        self->thread = PyThread_get_thread_ident();
        self->tstate = PyThreadState_Get();
        self->interp_id = self->view == NULL ? current_interp_id()
                                             : self->view->interp_id;
        self->owner = owner;
        link_guard(self);
    }
    unlock_list();
}

static int
enter(Guard *self, CoreState *state)
{
    Owner *owner = current_owner(state);
    if (owner == NULL) {
        return -1;
    }
    settle_debts(owner);
    PyInterpreterGuard *held = acquire(state, self->view);
    if (held == NULL) {
        return -1;
    }
    if (arm_again_if_needed(state->seam) < 0) {
        PyInterpreterGuard_Close(held);
        return -1;
    }
    if (is_finalizing_thread(state)) {
        PyInterpreterGuard_Close(held);
        end_enter(self, ENTERED, NULL, NULL);
        return 0;
    }
    Pep788_EnterInsider();
    end_enter(self, ENTERED, held, owner);
    return 0;
}

static PyObject *
guard_enter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Guard *self = (Guard *)op;
    CoreState *state = state_of_type(Py_TYPE(op));
    if (state == NULL || begin_enter(self) < 0) {
        return NULL;
    }
    if (enter(self, state) < 0) {
        end_enter(self, IDLE, NULL, NULL);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
guard_exit(PyObject *op, PyObject *args)
{
    PyObject *type, *value, *traceback;
    if (!PyArg_UnpackTuple(args, "__exit__", 3, 3, &type, &value, &traceback)) {
        return NULL;
    }
    Guard *self = (Guard *)op;
    Taken taken = {NULL, 0};
    lock_list();
    int entered = self->phase == ENTERED;
    if (entered) {
        self->phase = IDLE;
        taken = take_guard(self);
    }
    unlock_list();
    if (!entered) {
        PyErr_SetString(PyExc_RuntimeError,
                        "this guard is not entered; use it in a with statement");
        return NULL;
    }
    finish_taken(taken);
    Py_RETURN_NONE;
}

static PyObject *
guard_repr(PyObject *op)
{
    Guard *self = (Guard *)op;
    lock_list();
    const char *what = self->phase != ENTERED ? "not entered"
                       : self->held != NULL   ? "holding"
                                              : "entered, not holding";
    unlock_list();
    return PyUnicode_FromFormat("<pep788.guard %s>", what);
}

static PyMethodDef guard_methods[] = {
    {"__enter__", guard_enter, METH_NOARGS,
     "Hold the interpreter; PythonFinalizationError once shutdown has begun."},
    {"__exit__", guard_exit, METH_VARARGS,
     "Let the interpreter go; on any thread."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot guard_slots[] = {
    {Py_tp_doc,
     "guard()\n--\n\n"
     "Context manager: the interpreter is not finalized inside the block.\n\n"
     "A daemon thread inside the block is not stopped there.  Entering raises\n"
     "PythonFinalizationError once shutdown no longer waits.  A guard that is\n"
     "never left holds nothing after its object, or the thread that entered\n"
     "it, is gone, nor when that thread is the one that finalizes."},
    {Py_tp_new, guard_new},
    {Py_tp_dealloc, guard_dealloc},
    {Py_tp_traverse, guard_traverse},
    {Py_tp_clear, guard_clear},
    {Py_tp_repr, guard_repr},
    {Py_tp_methods, guard_methods},
    {0, NULL},
};

static PyType_Spec guard_spec = {
    "pep788.guard", sizeof(Guard), 0,
    CORE_TPFLAGS, guard_slots,
};


/* --- pep788.View ------------------------------------------------------------ */

static PyObject *
new_view(PyTypeObject *type, PyInterpreterView *(*make)(void), long long interp_id)
{
    PyInterpreterView *view = make();
    if (view == NULL) {
        /* FromMain reports "no memory" without an exception. */
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    View *self = PyObject_GC_New(View, type);
    if (self == NULL) {
        PyInterpreterView_Close(view);
        return NULL;
    }
    self->view = view;
    self->interp_id = interp_id;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static PyObject *
view_new(PyTypeObject *Py_UNUSED(type), PyObject *Py_UNUSED(args),
         PyObject *Py_UNUSED(kwargs))
{
    PyErr_SetString(PyExc_TypeError,
                    "a View is not made directly; call pep788.View.current() "
                    "or pep788.View.main()");
    return NULL;
}

static int
view_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void
view_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    PyInterpreterView_Close(((View *)op)->view);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyObject *
view_current(PyObject *type, PyObject *Py_UNUSED(ignored))
{
    return new_view((PyTypeObject *)type, PyInterpreterView_FromCurrent,
                    current_interp_id());
}

static PyObject *
view_main(PyObject *type, PyObject *Py_UNUSED(ignored))
{
    return new_view((PyTypeObject *)type, PyInterpreterView_FromMain, 0);
}

static PyObject *
view_guard(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    CoreState *state = state_of_type(Py_TYPE(op));
    return state == NULL ? NULL : new_guard(state, (View *)op);
}

static PyObject *
view_alive(PyObject *op, void *Py_UNUSED(closure))
{
    PyInterpreterGuard *guard = PyInterpreterGuard_FromView(((View *)op)->view);
    if (guard == NULL) {
        if (Pep788_LastFailure() == PEP788_NO_MEMORY) {
            return PyErr_NoMemory();
        }
        Py_RETURN_FALSE;
    }
    PyInterpreterGuard_Close(guard);
    Py_RETURN_TRUE;
}

static PyObject *
view_repr(PyObject *op)
{
    return PyUnicode_FromFormat("<pep788.View of interpreter %lld>",
                                ((View *)op)->interp_id);
}

static PyMethodDef view_methods[] = {
    {"current", view_current, METH_NOARGS | METH_CLASS,
     "current($type)\n--\n\nA view of the current interpreter."},
    {"main", view_main, METH_NOARGS | METH_CLASS,
     "main($type)\n--\n\nA view of the main interpreter."},
    {"guard", view_guard, METH_NOARGS,
     "guard($self)\n--\n\nA guard of the viewed interpreter, to be entered."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef view_getset[] = {
    {"alive", view_alive, NULL,
     "Whether a guard could be had just now; it may be over the next moment.",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot view_slots[] = {
    {Py_tp_doc,
     "An interpreter seen from outside; keeps nothing alive.\n\n"
     "Made by View.current() and View.main()."},
    {Py_tp_new, view_new},
    {Py_tp_dealloc, view_dealloc},
    {Py_tp_traverse, view_traverse},
    {Py_tp_repr, view_repr},
    {Py_tp_methods, view_methods},
    {Py_tp_getset, view_getset},
    {0, NULL},
};

static PyType_Spec view_spec = {
    "pep788.View", sizeof(View), 0,
    CORE_TPFLAGS, view_slots,
};


/* --- the module ------------------------------------------------------------- */

static PyObject *
core_guard_count(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromSsize_t(Pep788_GuardCount(PyInterpreterState_Get()));
}

static PyObject *
core_modules(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return Pep788_Modules();
}

static PyMethodDef core_methods[] = {
    {"guard_count", core_guard_count, METH_NOARGS,
     "guard_count()\n--\n\n"
     "How many guards are open on this interpreter, in all modules."},
    {"modules", core_modules, METH_NOARGS,
     "modules()\n--\n\n"
     "The modules that registered with this interpreter and their open guards."},
    {"watchdog_set", watchdog_set, METH_VARARGS,
     "watchdog_set(after, abort_after)\n--\n\n"
     "Seconds from the start of finalization; 0 is never."},
    {"watchdog_mark", watchdog_mark, METH_VARARGS,
     "watchdog_mark(stage, signal, threads)\n--\n\n"
     "Finalization has begun, or reached this stage."},
    {"watchdog_unused_signal", watchdog_unused_signal, METH_NOARGS,
     "watchdog_unused_signal()\n--\n\n"
     "A signal that nobody handles, or 0."},
    {NULL, NULL, 0, NULL},
};

/* New reference.  The builtin (gh-114570, 3.13.0a4) or, before, a class made
   once per interpreter: except clauses must match across a re-import. */
static PyObject *
find_finalization_error(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    Py_INCREF(PyExc_PythonFinalizationError);
    return PyExc_PythonFinalizationError;
#else
    static const char name[] = "pep788.PythonFinalizationError";
    PyObject *dict = PyInterpreterState_GetDict(PyInterpreterState_Get());
    if (dict == NULL) {
        return PyErr_NoMemory();
    }
    PyObject *key = PyUnicode_FromString(name);
    if (key == NULL) {
        return NULL;
    }
    PyObject *error = PyDict_GetItemWithError(dict, key);
    Py_XINCREF(error);
    if (error == NULL && !PyErr_Occurred()) {
        error = PyErr_NewExceptionWithDoc(
            name, "Operation blocked during Python finalization.",
            PyExc_RuntimeError, NULL);
        if (error != NULL && PyDict_SetItem(dict, key, error) < 0) {
            Py_CLEAR(error);
        }
    }
    Py_DECREF(key);
    return error;
#endif
}

static PyTypeObject *
add_type(PyObject *module, PyType_Spec *spec, const char *public_name)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type == NULL || public_name == NULL) {
        return (PyTypeObject *)type;
    }
    Py_INCREF(type);
    if (PyModule_AddObject(module, public_name, type) < 0) {
        Py_DECREF(type);
        Py_DECREF(type);
        return NULL;
    }
    return (PyTypeObject *)type;
}

static int
add_constants(PyObject *module, CoreState *state)
{
    Py_INCREF(state->finalization_error);
    if (PyModule_AddObject(module, "PythonFinalizationError",
                           state->finalization_error) < 0) {
        Py_DECREF(state->finalization_error);
        return -1;
    }
    if (PyModule_AddIntMacro(module, WATCHDOG_JOINING) < 0
        || PyModule_AddIntMacro(module, WATCHDOG_CALLBACKS) < 0
        || PyModule_AddIntConstant(module, "INTERPRETER", (long)current_interp_id()) < 0) {
        return -1;
    }
    return PyModule_AddStringConstant(module, "HEADER_VERSION", PEP788_VERSION);
}

static int
core_exec(PyObject *module)
{
    CoreState *state = state_of_module(module);
    if (install_atfork() < 0 || (state->seam = new_seam()) == NULL) {
        return -1;
    }
    /* Before the header's: callbacks that are cleared without being called go
       oldest first on 3.9-3.15, and the header then waits. */
    if (arm(state->seam) < 0 || Pep788_Init() < 0) {
        return -1;
    }
    watchdog_trace();       /* Pep788_Init has read the environment again */
    if (state->seam != &main_seam) {
        arm_main_from_subinterpreter();
    }
    if ((state->finalization_error = find_finalization_error()) == NULL
        || (state->owner_type = add_type(module, &owner_spec, NULL)) == NULL
        || (state->guard_type = add_type(module, &guard_spec, "guard")) == NULL
        || (state->view_type = add_type(module, &view_spec, "View")) == NULL
        || add_constants(module, state) < 0) {
        return -1;
    }
    return 0;
}

static int
core_traverse(PyObject *module, visitproc visit, void *arg)
{
    CoreState *state = state_of_module(module);
    Py_VISIT(state->guard_type);
    Py_VISIT(state->view_type);
    Py_VISIT(state->owner_type);
    Py_VISIT(state->finalization_error);
    return 0;
}

static int
core_clear(PyObject *module)
{
    CoreState *state = state_of_module(module);
    Py_CLEAR(state->guard_type);
    Py_CLEAR(state->view_type);
    Py_CLEAR(state->owner_type);
    Py_CLEAR(state->finalization_error);
    return 0;
}

static void
core_free(void *module)
{
    CoreState *state = state_of_module((PyObject *)module);
    (void)core_clear((PyObject *)module);
    if (state->seam != NULL) {
        release_seam(state->seam);
        state->seam = NULL;
    }
}

static PyModuleDef_Slot core_slots[] = {
    {Py_mod_exec, core_exec},
#ifdef Py_mod_multiple_interpreters     /* 3.12 */
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil                       /* 3.13 */
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,
    "pep788._core",
    "Guards and views of PEP 788 for Python code; see the package pep788.",
    sizeof(CoreState),
    core_methods,
    core_slots,
    core_traverse,
    core_clear,
    core_free,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&core_module);
}
