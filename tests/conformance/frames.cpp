/* E7 in C++: a foreign thread whose frames must not be cut by pthread_exit or an endless pause. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pep788.h>

#include "../module.h"

#include <pthread.h>
#include <unistd.h>

#include <cstring>

namespace {

void
say(const char *text)
{
    ssize_t done = write(1, text, strlen(text));
    (void)done;
}

struct Destructor {
    const char *text;
    ~Destructor() { say(text); }
};

PyObject *finish;
PyInterpreterView *view;
bool guarded;
int ready[2];

/* noexcept: the forced unwinding of pthread_exit would be std::terminate here. */
void
sleep_detached(int fd) noexcept
{
    Destructor inner = {"inner destructor\n"};
    char byte;
    Py_BEGIN_ALLOW_THREADS
    ssize_t done = write(ready[1], "x", 1);
    do {
        done = read(fd, &byte, 1);
    } while (done < 0);
    Py_END_ALLOW_THREADS
}

void *
thread_main(void *arg)
{
    Destructor outer = {"outer destructor\n"};
    int fd = *static_cast<int *>(arg);
    PyThreadStateToken *token = nullptr;
    PyGILState_STATE state = PyGILState_UNLOCKED;
    if (guarded) {
        token = PyThreadState_EnsureFromView(view);
        if (token == nullptr) {
            return nullptr;
        }
    }
    else {
        state = PyGILState_Ensure();
    }
    say("attached\n");
    try {
        sleep_detached(fd);
        PyObject *result = PyObject_CallNoArgs(finish);
        Py_XDECREF(result);
    } catch (...) {
        say("unwound\n");
        throw;
    }
    if (guarded) {
        PyThreadState_Release(token);
    }
    else {
        PyGILState_Release(state);
    }
    return nullptr;
}

/* start(fd, guarded, finish): the thread attaches, blocks detached until fd is readable, and calls finish();
   start() returns when it blocks. */
PyObject *
start(PyObject *self, PyObject *args)
{
    static int fd;
    int with_guard;
    if (!PyArg_ParseTuple(args, "ipO", &fd, &with_guard, &finish)) {
        return nullptr;
    }
    Py_INCREF(finish);
    guarded = with_guard;
    view = PyInterpreterView_FromCurrent();
    pthread_t id;
    if (view == nullptr || pipe(ready) != 0 || pthread_create(&id, nullptr, thread_main, &fd) != 0) {
        PyErr_SetString(PyExc_RuntimeError, "no thread");
        return nullptr;
    }
    pthread_detach(id);
    char byte;
    ssize_t done;
    Py_BEGIN_ALLOW_THREADS
    do {
        done = read(ready[0], &byte, 1);
    } while (done < 0);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"start", start, METH_VARARGS, "start the thread"},
    {nullptr, nullptr, 0, nullptr},
};

struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "frames", nullptr, 0, methods, nullptr, nullptr, nullptr, nullptr,
};

} // namespace

PyMODINIT_FUNC
PyInit_frames(void)
{
    if (Pep788_Init() < 0) {
        return nullptr;
    }
    return create_module(&definition);
}
