# cython: language_level=3
"""start(callable): a native thread calls it for as long as there is a Python to call."""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from posix.unistd cimport usleep
cimport pep788

cdef extern from "pthread.h" nogil:
    ctypedef unsigned long pthread_t
    int pthread_create(pthread_t *thread, void *attributes, void *(*run)(void *) noexcept nogil, void *data)
    int pthread_detach(pthread_t thread)

pep788.Pep788_Init()
cdef pep788.PyInterpreterView *interpreter = pep788.PyInterpreterView_FromCurrent()

cdef void *run(void *data) noexcept nogil:
    cdef pep788.PyThreadStateToken *token
    while True:
        token = pep788.PyThreadState_EnsureFromView(interpreter)
        if token == NULL:
            break                   # Python is ending
        call(data)
        pep788.PyThreadState_Release(token)
        usleep(1000)
    pep788.Pep788_DropRef(interpreter, <PyObject *>data)
    return NULL

cdef void call(void *data) noexcept with gil:
    (<object>data)()

def start(callable):
    cdef pthread_t thread
    Py_INCREF(callable)
    if pthread_create(&thread, NULL, run, <void *>callable) != 0:
        raise MemoryError
    pthread_detach(thread)
