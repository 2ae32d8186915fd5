/* What the source files of pep788._core share. */

#ifndef PEP788_CORE_H
#define PEP788_CORE_H

#define PY_SSIZE_T_CLEAN
#ifndef PEP788_ALWAYS
#  define PEP788_ALWAYS
#endif
#ifndef PEP788_MODULE_NAME
#  define PEP788_MODULE_NAME "pep788"
#endif
#include <Python.h>
#include <pep788.h>

#if defined(__GNUC__) && !defined(_WIN32)
#  define CORE_LOCAL __attribute__((visibility("hidden")))
#else
#  define CORE_LOCAL
#endif

/* Stages of finalization that Python code can tell, in _watchdog.py. */
#define WATCHDOG_JOINING 1      /* threading._shutdown runs */
#define WATCHDOG_CALLBACKS 2    /* it has returned, or an atexit callback runs */

CORE_LOCAL PyObject *watchdog_set(PyObject *module, PyObject *args);
CORE_LOCAL PyObject *watchdog_mark(PyObject *module, PyObject *args);
CORE_LOCAL PyObject *watchdog_unused_signal(PyObject *module, PyObject *ignored);
/* With the watchdog on, guards of this module are traced. */
CORE_LOCAL void watchdog_trace(void);

#endif
