/* What one source file of f_mixed has of the header; FILE_ says which file. See f_mixed.c. */
#include <pep788.h>

typedef struct {
    PyInterpreterGuard *(*guard_from_current)(void);
    PyInterpreterGuard *(*guard_from_view)(PyInterpreterView *);
    void (*close)(PyInterpreterGuard *);
    PyInterpreterView *(*view_from_main)(void);
    void (*view_close)(PyInterpreterView *);
    PyThreadStateToken *(*ensure)(PyInterpreterGuard *);
    PyThreadStateToken *(*ensure_from_view)(PyInterpreterView *);
    void (*release)(PyThreadStateToken *);
    int (*init)(void);
    Py_ssize_t (*count)(PyInterpreterState *);
} File;

__attribute__((visibility("hidden"))) const File *first_file(void);
__attribute__((visibility("hidden"))) const File *second_file(void);

const File *
FILE_(void)
{
    static const File file = {
        PyInterpreterGuard_FromCurrent, PyInterpreterGuard_FromView, PyInterpreterGuard_Close,
        PyInterpreterView_FromMain, PyInterpreterView_Close,
        PyThreadState_Ensure, PyThreadState_EnsureFromView, PyThreadState_Release,
        Pep788_Init, Pep788_GuardCount,
    };
    return &file;
}
