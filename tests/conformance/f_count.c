/* F8: what acquiring and closing a guard asks of the allocator and of locks.

   Linked with --wrap for the functions listed in test_F8_cost.py, so that calls from this module are counted; what
   CPython does on the module's behalf is counted by hooks in its three memory domains. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pep788.h>

#include <assert.h>
#include <pthread.h>
#include <semaphore.h>
#include <stddef.h>

#ifdef NDEBUG
#  error "these tests need their assertions"
#endif

static __thread int counting;
static __thread long allocations;
static __thread long locks;

#define COUNT(what) ((void)(counting && what++))

#define WRAP(counter, result, name, parameters, arguments)                     \
    result __real_##name parameters;                                           \
    result __wrap_##name parameters;                                           \
    result __wrap_##name parameters                                            \
    {                                                                          \
        COUNT(counter);                                                        \
        return __real_##name arguments;                                        \
    }

WRAP(allocations, void *, malloc, (size_t size), (size))
WRAP(allocations, void *, calloc, (size_t count, size_t size), (count, size))
WRAP(allocations, void *, realloc, (void *old, size_t size), (old, size))
WRAP(allocations, void *, aligned_alloc, (size_t alignment, size_t size), (alignment, size))
WRAP(allocations, int, posix_memalign, (void **p, size_t alignment, size_t size), (p, alignment, size))
WRAP(locks, int, pthread_mutex_lock, (pthread_mutex_t * mutex), (mutex))
WRAP(locks, int, pthread_mutex_trylock, (pthread_mutex_t * mutex), (mutex))
WRAP(locks, int, pthread_spin_lock, (pthread_spinlock_t * spin), (spin))
WRAP(locks, int, pthread_rwlock_rdlock, (pthread_rwlock_t * rwlock), (rwlock))
WRAP(locks, int, pthread_rwlock_wrlock, (pthread_rwlock_t * rwlock), (rwlock))
WRAP(locks, int, sem_wait, (sem_t * semaphore), (semaphore))
WRAP(locks, int, PyThread_acquire_lock, (PyThread_type_lock lock, int wait), (lock, wait))
WRAP(locks, PyLockStatus, PyThread_acquire_lock_timed, (PyThread_type_lock lock, PY_TIMEOUT_T us, int intr),
     (lock, us, intr))
#if PY_VERSION_HEX >= 0x030D0000
/* PyMutex_Lock() is an inline function in front of this one, which only contention calls. */
#  undef PyMutex_Lock
void __real_PyMutex_Lock(PyMutex *mutex);
void __wrap_PyMutex_Lock(PyMutex *mutex);
void
__wrap_PyMutex_Lock(PyMutex *mutex)
{
    COUNT(locks);
    __real_PyMutex_Lock(mutex);
}
#endif

/* --- CPython's domains --- */

static PyMemAllocatorEx before[3];

static void *
counted_malloc(void *ctx, size_t size)
{
    PyMemAllocatorEx *next = (PyMemAllocatorEx *)ctx;
    COUNT(allocations);
    return next->malloc(next->ctx, size);
}

static void *
counted_calloc(void *ctx, size_t count, size_t size)
{
    PyMemAllocatorEx *next = (PyMemAllocatorEx *)ctx;
    COUNT(allocations);
    return next->calloc(next->ctx, count, size);
}

static void *
counted_realloc(void *ctx, void *old, size_t size)
{
    PyMemAllocatorEx *next = (PyMemAllocatorEx *)ctx;
    COUNT(allocations);
    return next->realloc(next->ctx, old, size);
}

static void
counted_free(void *ctx, void *old)
{
    PyMemAllocatorEx *next = (PyMemAllocatorEx *)ctx;
    next->free(next->ctx, old);
}

static void
install_hooks(void)
{
    static const PyMemAllocatorDomain domains[3] = {PYMEM_DOMAIN_RAW, PYMEM_DOMAIN_MEM, PYMEM_DOMAIN_OBJ};
    for (int i = 0; i < 3; i++) {
        PyMem_GetAllocator(domains[i], &before[i]);
        PyMemAllocatorEx hook = {&before[i], counted_malloc, counted_calloc, counted_realloc, counted_free};
        PyMem_SetAllocator(domains[i], &hook);
    }
}

/* --- the rounds --- */

enum { ROUNDS = 1000, OPEN = 100 };

static void
start(void)
{
    allocations = locks = 0;
    counting = 1;
}

static void
stop(void)
{
    counting = 0;
}

static PyObject *
counted(void)
{
    return Py_BuildValue("ll", allocations, locks);
}

static PyObject *
self_test(PyObject *self, PyObject *unused)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    start();
    void *volatile p = malloc(10);
    void *volatile q = PyMem_RawMalloc(10);
    void *volatile r = PyMem_Malloc(10);
    void *volatile s = PyObject_Malloc(10);
    pthread_mutex_lock(&mutex);
    stop();
    pthread_mutex_unlock(&mutex);
    free(p);
    PyMem_RawFree(q);
    PyMem_Free(r);
    PyObject_Free(s);
    return counted();
}

static PyObject *
attached(PyObject *self, PyObject *unused)
{
    PyInterpreterGuard *guards[OPEN];
    start();
    for (int round = 0; round < ROUNDS; round++) {
        guards[round % OPEN] = PyInterpreterGuard_FromCurrent();
        assert(guards[round % OPEN] != NULL);
        if (round % OPEN == OPEN - 1) {
            for (int i = 0; i < OPEN; i++) {
                PyInterpreterGuard_Close(guards[i]);
            }
        }
    }
    stop();
    return counted();
}

typedef struct {
    PyInterpreterView *view;
    long allocations, locks;
} Foreign;

static void *
foreign_thread(void *arg)
{
    Foreign *foreign = (Foreign *)arg;
    PyInterpreterGuard *guards[OPEN];
    start();
    for (int round = 0; round < ROUNDS; round++) {
        guards[round % OPEN] = PyInterpreterGuard_FromView(foreign->view);
        assert(guards[round % OPEN] != NULL);
        if (round % OPEN == OPEN - 1) {
            for (int i = 0; i < OPEN; i++) {
                PyInterpreterGuard_Close(guards[i]);
            }
        }
    }
    stop();
    foreign->allocations = allocations;
    foreign->locks = locks;
    return NULL;
}

static PyObject *
on_foreign_thread(PyObject *self, PyObject *main_view)
{
    Foreign foreign = {NULL, 0, 0};
    foreign.view = PyObject_IsTrue(main_view) ? PyInterpreterView_FromMain() : PyInterpreterView_FromCurrent();
    assert(foreign.view != NULL);
    Py_BEGIN_ALLOW_THREADS
    pthread_t thread;
    int failed = pthread_create(&thread, NULL, foreign_thread, &foreign);
    assert(!failed);
    pthread_join(thread, NULL);
    Py_END_ALLOW_THREADS
    PyInterpreterView_Close(foreign.view);
    return Py_BuildValue("ll", foreign.allocations, foreign.locks);
}

static PyObject *
nested_ensure(PyObject *self, PyObject *unused)
{
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    assert(guard != NULL);
    start();
    for (int round = 0; round < ROUNDS; round++) {
        PyThreadStateToken *token = PyThreadState_Ensure(guard);
        assert(token != NULL);
        PyThreadState_Release(token);
    }
    stop();
    PyInterpreterGuard_Close(guard);
    return counted();
}

static PyMethodDef methods[] = {
    {"self_test", self_test, METH_NOARGS, NULL},
    {"attached", attached, METH_NOARGS, NULL},
    {"on_foreign_thread", on_foreign_thread, METH_O, NULL},
    {"nested_ensure", nested_ensure, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "f_count", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC
PyInit_f_count(void)
{
    install_hooks();
    if (Pep788_Init() < 0) {
        return NULL;
    }
    PyObject *module = PyModule_Create(&definition);
#ifdef Py_GIL_DISABLED
    PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
#endif
    return module;
}
