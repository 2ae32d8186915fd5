/* pep788._callback: function pointers that may be called on any thread, at any
 * time.  Each is a libffi closure in front of another function pointer, one that
 * calls Python (of ctypes, cffi, ...).  A call attaches first and holds a guard
 * until it returns; where that is refused, it gets an answer that was prepared
 * when the pointer was made, and nothing of Python is touched.
 *
 * Compiled with PEP788_ALWAYS, as pep788._core is.
 *
 * Lifetimes.  A Pointer is the Python object, a Record what the C library can
 * reach.  They part when the Pointer dies, which may be in the middle of a call:
 *
 *   - `state` counts the calls inside.  The first moment at which the Pointer is
 *     dropped and nobody is inside retires the record: exactly one thread sees it,
 *     and gives back the reference to the function that was called.
 *   - A retired record answers late calls a while longer, as one of the last
 *     RESTING, and is then freed.  Between the closure's first instruction and the
 *     count there is no telling that a thread is inside; this also covers that.
 *   - Once the interpreter refuses guards nothing is freed any more: native
 *     threads may still call, and nobody will ever know when the last one did.
 *
 * In the child of a fork the calls of vanished threads stay counted, so what they
 * were inside is never freed there. */

#define PY_SSIZE_T_CLEAN
#ifndef PEP788_ALWAYS
#  define PEP788_ALWAYS
#endif
#ifndef PEP788_MODULE_NAME
#  define PEP788_MODULE_NAME "pep788.callback"
#endif
#include <Python.h>
#include <pep788.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#if defined(__has_include)
#  if __has_include(<ffi.h>)
#    include <ffi.h>
#  else
#    include <ffi/ffi.h>        /* the SDK of macOS */
#  endif
#else
#  include <ffi.h>
#endif


/* --- records ---------------------------------------------------------------- */

/* Record.state: the calls inside, times CALL, and flags. */
#define DROPPED ((pep788_word)1)    /* its Pointer is gone */
#define RETIRED ((pep788_word)2)    /* and there was a moment without a call */
#define CALL ((pep788_word)4)

/* A structure passed by value. */
typedef struct Aggregate {
    struct Aggregate *next;
    ffi_type type;
    ffi_type *elements[1];
} Aggregate;

typedef struct {
    pep788_word state;          /* atomic */
    PyInterpreterView *view;
    int keeps_thread_state;
    void (*function)(void);
    PyObject *owner;            /* keeps `function` callable; until it is retired */
    size_t answer_size;
    void *answer;               /* as the closure must leave it */
    void *text;                 /* what the answer points to, if that is ours */
    ffi_closure *closure;
    void *code;                 /* the address to call */
    ffi_cif cif;
    ffi_type **parameters;
    Aggregate *aggregates;
} Record;

static void
free_record(Record *self)
{
    if (self->closure != NULL) {
        ffi_closure_free(self->closure);
    }
    if (self->view != NULL) {
        PyInterpreterView_Close(self->view);
    }
    while (self->aggregates != NULL) {
        Aggregate *next = self->aggregates->next;
        free(self->aggregates);
        self->aggregates = next;
    }
    free(self->parameters);
    free(self->answer);
    free(self->text);
    free(self);
}

/* A ring without a lock: none has to be repaired in the child of a fork. */
#define RESTING 256
static pep788_word resting[RESTING];    /* atomic: Record * */
static pep788_word next_place;          /* atomic */

static void
rest(Record *self)
{
    for (int i = 0; i < RESTING && self != NULL; i++) {
        size_t place = (size_t)(pep788_add_acq_rel(&next_place, 1) % RESTING);
        self = (Record *)pep788_exchange_seq_cst(&resting[place], (pep788_word)self);
        if (self != NULL && pep788_load_acquire(&self->state) == (DROPPED | RETIRED)) {
            free_record(self);
            self = NULL;
        }
    }
    /* All of them have a thread inside: this one is leaked. */
}

/* By the one thread that retired it. No guard is open while the owner's destructors
   run: they may end the process. */
static void
retire(Record *self, int attached)
{
    PyObject *owner = self->owner;
    self->owner = NULL;
    if (!attached) {
        Pep788_DropRef(self->view, owner);
        owner = NULL;
    }
    PyInterpreterGuard *guard = PyInterpreterGuard_FromView(self->view);
    if (guard != NULL) {
        rest(self);
        PyInterpreterGuard_Close(guard);
    }
    Py_XDECREF(owner);
}

/* One call less, or the Pointer gone. */
static void
leave(Record *self, pep788_word calls, pep788_word flags, int attached)
{
    pep788_word after, before = pep788_load_acquire(&self->state);
    do {
        after = (before - calls) | flags;
        if (after == DROPPED) {
            after |= RETIRED;
        }
    } while (!pep788_cas_seq_cst(&self->state, &before, after));
    if ((after & RETIRED) != 0 && (before & RETIRED) == 0) {
        retire(self, attached);
    }
}


/* --- a call ------------------------------------------------------------------ */

/* The caller's, which ctypes hands to Python code (use_errno, use_last_error). */
typedef struct {
    int c;
#ifdef _WIN32
    DWORD os;
#endif
} ErrorNumbers;

static ErrorNumbers
save_errors(void)
{
    ErrorNumbers saved;
#ifdef _WIN32
    saved.os = GetLastError();
#endif
    saved.c = errno;
    return saved;
}

static void
restore_errors(ErrorNumbers saved)
{
    errno = saved.c;
#ifdef _WIN32
    SetLastError(saved.os);
#endif
}

static PyThreadStateToken *
attach(const Record *self)
{
    return self->keeps_thread_state ? Pep788_EnsureKept(self->view)
                                    : PyThreadState_EnsureFromView(self->view);
}

static void
detach(int keeps_thread_state, PyThreadStateToken *token)
{
    if (keeps_thread_state) {
        Pep788_ReleaseKept(token);
    }
    else {
        PyThreadState_Release(token);
    }
}

static void
handle_call(ffi_cif *cif, void *result, void **arguments, void *data)
{
    Record *self = (Record *)data;
    ErrorNumbers errors = save_errors();
    PyThreadStateToken *token = NULL;
    if ((pep788_add_acq_rel(&self->state, CALL) & DROPPED) == 0) {
        token = attach(self);
    }
    if (token == NULL) {
        memcpy(result, self->answer, self->answer_size);
        leave(self, CALL, 0, 0);
    }
    else {
        restore_errors(errors);
        ffi_call(cif, self->function, result, arguments);
        errors = save_errors();
        int keeps = self->keeps_thread_state;   /* after leave() `self` may be gone */
        leave(self, CALL, 0, 1);
        detach(keeps, token);
    }
    restore_errors(errors);
}


/* --- types: a name of libffi's, or a tuple of them for a structure ------------ */

static ffi_type *parse_type(Record *record, PyObject *description);

static ffi_type *
parse_name(PyObject *description)
{
    /* Not static: in a DLL their addresses are not constants. */
    const struct {
        const char *name;
        ffi_type *type;
    } names[] = {
        {"void", &ffi_type_void},
        {"sint8", &ffi_type_sint8},
        {"uint8", &ffi_type_uint8},
        {"sint16", &ffi_type_sint16},
        {"uint16", &ffi_type_uint16},
        {"sint32", &ffi_type_sint32},
        {"uint32", &ffi_type_uint32},
        {"sint64", &ffi_type_sint64},
        {"uint64", &ffi_type_uint64},
        {"float", &ffi_type_float},
        {"double", &ffi_type_double},
        {"longdouble", &ffi_type_longdouble},
        {"pointer", &ffi_type_pointer},
#ifdef FFI_TARGET_HAS_COMPLEX_TYPE
        {"complex_float", &ffi_type_complex_float},
        {"complex_double", &ffi_type_complex_double},
        {"complex_longdouble", &ffi_type_complex_longdouble},
#endif
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (PyUnicode_CompareWithASCIIString(description, names[i].name) == 0) {
            return names[i].type;
        }
    }
    PyErr_Format(PyExc_TypeError, "this platform's libffi has no type %R", description);
    return NULL;
}

static ffi_type *
parse_structure(Record *record, PyObject *elements)
{
    Py_ssize_t count = PyTuple_GET_SIZE(elements);
    Aggregate *new = calloc(1, sizeof(Aggregate) + (size_t)count * sizeof(ffi_type *));
    if (new == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    new->type.type = FFI_TYPE_STRUCT;
    new->type.elements = new->elements;
    new->next = record->aggregates;
    record->aggregates = new;
    for (Py_ssize_t i = 0; i < count; i++) {
        new->elements[i] = parse_type(record, PyTuple_GET_ITEM(elements, i));
        if (new->elements[i] == NULL) {
            return NULL;
        }
    }
    return &new->type;
}

static ffi_type *
parse_type(Record *record, PyObject *description)
{
    if (PyUnicode_Check(description)) {
        return parse_name(description);
    }
    if (!PyTuple_Check(description)) {
        PyErr_Format(PyExc_TypeError, "a type is a str or a tuple, not %R", description);
        return NULL;
    }
    if (Py_EnterRecursiveCall(" in the description of a structure")) {
        return NULL;
    }
    ffi_type *type = parse_structure(record, description);
    Py_LeaveRecursiveCall();
    return type;
}

static int
prepare_call(Record *record, int abi, PyObject *result, PyObject *parameters)
{
    Py_ssize_t count = PyTuple_GET_SIZE(parameters);
    ffi_type *result_type = parse_type(record, result);
    if (result_type == NULL) {
        return -1;
    }
    record->parameters = calloc((size_t)count + 1, sizeof(ffi_type *));
    if (record->parameters == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        record->parameters[i] = parse_type(record, PyTuple_GET_ITEM(parameters, i));
        if (record->parameters[i] == NULL) {
            return -1;
        }
    }
    if (ffi_prep_cif(&record->cif, (ffi_abi)abi, (unsigned)count, result_type,
                     record->parameters) != FFI_OK) {
        PyErr_SetString(PyExc_TypeError, "libffi cannot call a function of this type");
        return -1;
    }
    return 0;
}


/* --- the answer to late calls -------------------------------------------------- */

#define WIDENED(type, bytes, wide) \
    do { \
        type value_; \
        memcpy(&value_, (bytes), sizeof(value_)); \
        *(wide) = (ffi_arg)value_; \
    } while (0)

/* A closure must leave an integer narrower than ffi_arg as a whole one. Returns
   whether `result` is one. */
static int
widen(const ffi_type *result, const char *bytes, ffi_arg *wide)
{
    if (result->size >= sizeof(ffi_arg)) {
        return 0;
    }
    switch (result->type) {
    case FFI_TYPE_SINT8:
        WIDENED(int8_t, bytes, wide);
        return 1;
    case FFI_TYPE_UINT8:
        WIDENED(uint8_t, bytes, wide);
        return 1;
    case FFI_TYPE_SINT16:
        WIDENED(int16_t, bytes, wide);
        return 1;
    case FFI_TYPE_UINT16:
        WIDENED(uint16_t, bytes, wide);
        return 1;
    case FFI_TYPE_SINT32:
        WIDENED(int32_t, bytes, wide);
        return 1;
    case FFI_TYPE_UINT32:
    case FFI_TYPE_POINTER:
        WIDENED(uint32_t, bytes, wide);
        return 1;
    default:
        return 0;
    }
}

static void *
copy_of(const void *bytes, size_t size)
{
    void *copy = malloc(size > 0 ? size : 1);
    if (copy == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    return memcpy(copy, bytes, size);
}

/* `text`, if not None, is what the pointer that is the result points to. */
static int
prepare_answer(Record *record, const Py_buffer *value, PyObject *text)
{
    const ffi_type *result = record->cif.rtype;
    size_t size = result->type == FFI_TYPE_VOID ? 0 : result->size;
    const void *bytes = value->buf;
    ffi_arg wide;
    if ((size_t)value->len != size) {
        PyErr_Format(PyExc_TypeError,
                     "the result has %zd bytes, but libffi expects %zu: it lays this "
                     "structure out in another way", value->len, size);
        return -1;
    }
    if (text != Py_None) {
        record->text = copy_of(PyBytes_AS_STRING(text), (size_t)PyBytes_GET_SIZE(text));
        if (record->text == NULL) {
            return -1;
        }
        bytes = &record->text;
    }
    else if (size > 0 && widen(result, bytes, &wide)) {
        bytes = &wide;
        size = sizeof(wide);
    }
    record->answer = copy_of(bytes, size);
    record->answer_size = size;
    return record->answer == NULL ? -1 : 0;
}


/* --- pep788._callback.Pointer ---------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    Record *record;             /* NULL: cleared */
    void *code;
    int forever;
} Pointer;

static int
prepare_closure(Record *record)
{
    record->closure = ffi_closure_alloc(sizeof(ffi_closure), &record->code);
    if (record->closure == NULL) {
        PyErr_SetString(PyExc_MemoryError,
                        "libffi has no memory that may be executed; does a security "
                        "policy (SELinux, PaX) forbid it?");
        return -1;
    }
    if (ffi_prep_closure_loc(record->closure, &record->cif, handle_call, record,
                             record->code) != FFI_OK) {
        PyErr_SetString(PyExc_TypeError, "libffi cannot make a function of this type");
        return -1;
    }
    return 0;
}

static PyObject *
pointer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"owner", "address", "abi", "result", "parameters", "answer",
                               "text", "keep_thread_state", "forever", NULL};
    PyObject *owner, *address, *result, *parameters, *text;
    Py_buffer answer;
    int abi, keeps, forever;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "OO!iOO!y*Opp:Pointer", keywords, &owner, &PyLong_Type, &address, &abi,
            &result, &PyTuple_Type, &parameters, &answer, &text, &keeps, &forever)) {
        return NULL;
    }
    Pointer *self = NULL;
    Record *record = calloc(1, sizeof(Record));
    if (record == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    record->keeps_thread_state = keeps;
    record->function = (void (*)(void))PyLong_AsVoidPtr(address);
    if (record->function == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "the function pointer is NULL");
        }
        goto done;
    }
    if (text != Py_None && !PyBytes_Check(text)) {
        PyErr_Format(PyExc_TypeError, "text must be bytes or None, not %R", text);
        goto done;
    }
    if ((record->view = PyInterpreterView_FromCurrent()) == NULL
        || prepare_call(record, abi, result, parameters) < 0
        || prepare_answer(record, &answer, text) < 0
        || prepare_closure(record) < 0
        || (self = PyObject_GC_New(Pointer, type)) == NULL) {
        goto done;
    }
    Py_INCREF(owner);
    record->owner = owner;
    self->record = record;
    self->code = record->code;
    self->forever = forever;
    PyObject_GC_Track(self);
    record = NULL;
done:
    if (record != NULL) {
        free_record(record);
    }
    PyBuffer_Release(&answer);
    return (PyObject *)self;
}

static int
pointer_traverse(PyObject *op, visitproc visit, void *arg)
{
    Pointer *self = (Pointer *)op;
    Py_VISIT(Py_TYPE(op));
    /* One that is for ever is reached from outside, by C. */
    if (self->record != NULL && !self->forever) {
        Py_VISIT(self->record->owner);
    }
    return 0;
}

static int
pointer_clear(PyObject *op)
{
    Pointer *self = (Pointer *)op;
    Record *record = self->record;
    self->record = NULL;
    if (record != NULL && !self->forever) {
        leave(record, 0, DROPPED, 1);
    }
    return 0;
}

static void
pointer_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)pointer_clear(op);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyObject *
pointer_address(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromVoidPtr(((Pointer *)op)->code);
}

static PyGetSetDef pointer_getset[] = {
    {"address", pointer_address, NULL, "What to call.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot pointer_slots[] = {
    {Py_tp_doc, "A native function in front of another, owned by this object."},
    {Py_tp_new, pointer_new},
    {Py_tp_dealloc, pointer_dealloc},
    {Py_tp_traverse, pointer_traverse},
    {Py_tp_clear, pointer_clear},
    {Py_tp_getset, pointer_getset},
    {0, NULL},
};

static PyType_Spec pointer_spec = {
    "pep788._callback.Pointer", sizeof(Pointer), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, pointer_slots,
};


/* --- the module ------------------------------------------------------------------- */

static int
callback_exec(PyObject *module)
{
#ifdef X86_WIN32
    int stdcall = (int)FFI_STDCALL;
#else
    int stdcall = (int)FFI_DEFAULT_ABI;     /* elsewhere there is one convention */
#endif
    if (Pep788_Init() < 0
        || PyModule_AddIntConstant(module, "DEFAULT_ABI", (int)FFI_DEFAULT_ABI) < 0
        || PyModule_AddIntConstant(module, "STDCALL_ABI", stdcall) < 0) {
        return -1;
    }
    PyObject *type = PyType_FromModuleAndSpec(module, &pointer_spec, NULL);
    if (type == NULL || PyModule_AddObject(module, "Pointer", type) < 0) {
        Py_XDECREF(type);
        return -1;
    }
    return 0;
}

static PyModuleDef_Slot callback_slots[] = {
    {Py_mod_exec, callback_exec},
#ifdef Py_mod_multiple_interpreters     /* 3.12 */
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil                       /* 3.13 */
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static PyModuleDef callback_module = {
    PyModuleDef_HEAD_INIT,
    "pep788._callback",
    "Function pointers that may be called on any thread, at any time.",
    0,
    NULL,
    callback_slots,
    NULL,
    NULL,
    NULL,
};

PyMODINIT_FUNC
PyInit__callback(void)
{
    return PyModuleDef_Init(&callback_module);
}
