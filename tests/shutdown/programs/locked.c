/* A C library with a mutex: its threads hold it while they call Python, and its objects take it to die. */
#include "callback.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

typedef struct {
    PyObject_HEAD
} handle;

static void
handle_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(&mutex);
    pthread_mutex_unlock(&mutex);
    Py_END_ALLOW_THREADS
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyType_Slot handle_slots[] = {{Py_tp_dealloc, (void *)handle_dealloc}, {0, NULL}};

static PyType_Spec handle_spec = {"program.handle", sizeof(handle), 0, Py_TPFLAGS_DEFAULT, handle_slots};

static void *
worker(void *number)
{
    int refused = 0;
    while (!ledger_is_stopping() && !refused) {
        pthread_mutex_lock(&mutex);
        refused = demo_callback((long)(intptr_t)number) < 0;
        pthread_mutex_unlock(&mutex);
        demo_pause(PAUSE_US);
    }
    return NULL;
}

/* An object in the module's own dict: on_event is never freed, and keeps what is in the globals of the script. */
static int
add_handle(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&handle_spec);
    PyObject *object = type == NULL ? NULL : (PyObject *)PyObject_New(handle, (PyTypeObject *)type);
    Py_XDECREF(type); /* PyObject_New took a reference of its own */
    int result = object == NULL ? -1 : PyObject_SetAttrString(module, "handle", object);
    Py_XDECREF(object);
    return result;
}

static PyObject *
demo_start(PyObject *module, PyObject *function)
{
    if (add_handle(module) < 0 || demo_prepare(function, NULL) < 0) {
        return NULL;
    }
    for (intptr_t i = 0; i < 4; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, worker, (void *)i) != 0) {
            return PyErr_Format(PyExc_OSError, "no thread");
        }
        pthread_detach(thread);
    }
    Py_RETURN_NONE;
}
