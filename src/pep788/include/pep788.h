/*
 * pep788.h - PEP 788 for CPython 3.9-3.14, and a few things it lacks on 3.15+.
 *
 * Interpreter guards (while one is open the interpreter does not finalize),
 * interpreter views (a safe handle to an interpreter that may be gone), and
 * PyThreadState_Ensure/EnsureFromView/Release (attach a native thread; a late
 * caller gets NULL instead of a crash or a hang), under the names of PEP 788:
 * https://peps.python.org/pep-0788/
 *
 * Include it anywhere (it includes <Python.h>), call Pep788_Init() in module
 * initialization, write PEP 788 code. On 3.15+ the native functions are used,
 * unless PEP788_ALWAYS is defined.  Any number of source files of a module may
 * include it: they share one copy of the data.  Modules that vendor different
 * versions of it find each other at run time.
 *
 * Define before the include, all optional:
 *   PEP788_ALWAYS            our implementation on 3.15+ too
 *   PEP788_REPLACE_GILSTATE  PyGILState_Ensure/Release hold a guard (see 9.)
 *   PEP788_MODULE_NAME       "name" shown in reports (default: the file's name)
 * Read from the environment when an interpreter is set up:
 *   PEP788_REPORT_AFTER=s    report who blocks finalization after s seconds (10)
 *   PEP788_GIVE_UP_AFTER=s   stop waiting after s seconds (never); newcomers are
 *                            refused in the last second of it (or half of it)
 *   PEP788_TRACE=1           reports also name each guard's thread and age
 *   PEP788_WATCHDOG=s        of the Python package: they do, too, unless PEP788_TRACE=0
 *
 * Copyright (c) 2026 the pep788 authors.
 * SPDX-License-Identifier: MIT OR 0BSD
 *
 * Permission to use, copy, modify, and/or distribute this software for any
 * purpose with or without fee is hereby granted.
 *
 * THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES
 * WITH REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF
 * MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY
 * SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES
 * WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION
 * OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN
 * CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE.
 *
 * Contents: 1 versions  2 portability  3 data  4 guards (the state machine)
 *           5 thread states  6 finalization  7 fork and set-up  8 API
 *           9 PEP788_REPLACE_GILSTATE
 * Why it is built this way: docs/architecture.md of the pep788 project.
 */
#ifndef PEP788_H
#define PEP788_H

/* The version of this header, a string. */
#define PEP788_VERSION "0.1.0"
/* The same as a number, which grows with it. */
#define PEP788_VERSION_HEX 0x00010000

/* PEP788_ENGINE_ONLY: sections 2-4 alone, without Python (our model checker
   and sanitizer harness run the very code below). */
#ifndef PEP788_ENGINE_ONLY
#  if defined(PEP788_REPLACE_GILSTATE) && !defined(PY_SSIZE_T_CLEAN) && !defined(Py_PYTHON_H)
/* -include puts this in front of the source's own definition. 3.10 made it
   mandatory for '#' formats (bpo-40943); on 3.9 a source that defines it must
   be compiled with -DPY_SSIZE_T_CLEAN, one that does not, without. */
#    include <patchlevel.h>
#    if PY_VERSION_HEX >= 0x030A0000
#      define PY_SSIZE_T_CLEAN
#    endif
#  endif
#  include <Python.h>
#  include <pythread.h>
#  if defined(PYPY_VERSION) || defined(GRAALVM_PYTHON)
#    error "pep788.h supports CPython only: PyPy and GraalPy never clear atexit references at exit, so nothing here could wait for guards. Use PyGILState_Ensure there."
#  endif
#endif
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------- */
/* 1  Versions: every test of PY_VERSION_HEX is here                          */
/* ------------------------------------------------------------------------- */

#ifndef PEP788_ENGINE_ONLY
#if PY_VERSION_HEX < 0x03090000
#  error "pep788.h needs CPython 3.9 or newer"
#endif
#if defined(Py_LIMITED_API) && Py_LIMITED_API+0 < 0x03090000
#  error "pep788.h needs Py_LIMITED_API 0x03090000 or newer (PyInterpreterState_Get)"
#endif

/* Native names are declared (PEP 788, 3.15). */
#if PY_VERSION_HEX >= 0x030F0000 \
    && (!defined(Py_LIMITED_API) || Py_LIMITED_API+0 >= 0x030F0000)
#  define PEP788_DECLARED 1
#else
#  define PEP788_DECLARED 0
#endif

/* 1: the nine names are the interpreter's own, 0: ours. */
#if PEP788_DECLARED && !defined(PEP788_ALWAYS)
#  define PEP788_NATIVE 1
#else
#  define PEP788_NATIVE 0
#endif

/* An abi3 module built for less than 3.15 looks for the native nine at run
   time. */
#if defined(Py_LIMITED_API) && !PEP788_DECLARED && !defined(PEP788_ALWAYS)
#  define PEP788_LATE_NATIVE 1
#else
#  define PEP788_LATE_NATIVE 0
#endif

#if !PEP788_DECLARED
/* An open guard of an interpreter, which does not finalize meanwhile. PEP 788; CPython 3.9+. */
typedef struct PyInterpreterGuard PyInterpreterGuard;
/* A handle to an interpreter, which may be gone: it keeps nothing alive. PEP 788; CPython 3.9+. */
typedef struct PyInterpreterView PyInterpreterView;
/* What PyThreadState_Release undoes: an opaque alias of void. PEP 788; CPython 3.9+. */
typedef void PyThreadStateToken;
#endif

/* Kept thread states (F6) need to write this thread's gilstate: a thread-specific
   key on 3.9-3.14, a compiler thread-local of the interpreter from 3.15 on, whose
   place only glibc and musl tell. 3.16: not known yet. Limited API: on 3.12+ a bit
   of PyThreadState must be written as well. Where this is 0, nothing is kept. */
#if defined(Py_LIMITED_API) || PY_VERSION_HEX >= 0x03100000
#  define PEP788_KEEPS 0
#elif PY_VERSION_HEX >= 0x030F0000
#  if defined(__linux__)
#    define PEP788_KEEPS 1
#  else
#    define PEP788_KEEPS 0
#  endif
#elif defined(__linux__) || defined(__APPLE__) || defined(__FreeBSD__)
#  define PEP788_KEEPS 1
#else
#  define PEP788_KEEPS 0
#endif
#if PEP788_KEEPS && PY_VERSION_HEX >= 0x030F0000
#  define PEP788_GILSTATE_IS_TLS 1
#else
#  define PEP788_GILSTATE_IS_TLS 0
#endif

#if PEP788_KEEPS
/* 3.12: a state becomes its thread's gilstate whenever it is attached, which a
   bit in it tells; before, only when it is created, by the slot alone. */
static inline int pep788_attach_binds(void) { return PY_VERSION_HEX >= 0x030C0000; }
static inline void pep788_clear_bound_bit(PyThreadState *tstate)
{
#  if PY_VERSION_HEX >= 0x030C0000
    tstate->_status.bound_gilstate = 0;
#  else
    (void)tstate;
#  endif
}

/* Up to 3.11 _xxsubinterpreters neither runs code in an interpreter it made nor
   destroys it while that has a second thread state; 3.12 may end it with the one
   that was made last as the current one. */
static inline int pep788_wants_one_state(PyInterpreterState *interp)
{
#  if PY_VERSION_HEX < 0x030D0000
    return _PyInterpreterState_RequiresIDRef(interp);
#  else
    (void)interp;
    return 0;
#  endif
}

/* bpo-1596321, up to 3.12: threading joins the thread that imported it first at
   exit if that is not the finalizing one: until its thread state is deleted. */
static inline int pep788_is_joined_at_exit(PyThreadState *tstate)
{
#  if PY_VERSION_HEX < 0x030D0000
    return tstate->on_delete != NULL;
#  else
    (void)tstate;
    return 0;
#  endif
}
#endif

#if !PEP788_NATIVE
/* Which CPython runs: known when compiling, except for abi3. */
#ifdef Py_LIMITED_API
static inline int pep788_python(void);
#else
static inline int pep788_python(void) { return PY_VERSION_HEX >> 16; }
#endif

/* gh-131346, 3.12: the current thread state moved from the runtime to the OS
   thread; before that it is whichever state holds the GIL. */
static inline int pep788_current_is_thread_local(void)
{
    return pep788_python() >= 0x030C;
}

/* 3.15: a thread's gilstate moved from a thread-specific key to a thread-local. */
static inline int pep788_gilstate_is_in_key(void)
{
    return pep788_python() < 0x030F;
}

/* 3.11: PyThreadState_New follows a null pointer when memory runs out; the two
   exported halves it is made of do not. */
static inline int pep788_new_state_is_unsafe(void)
{
    return pep788_python() == 0x030B;
}

/* 3.14: atexit callbacks became a list, emptied before its items are dropped,
   so one registered by a destructor survives. Before, it is dropped with the
   rest and would recurse. */
static inline int pep788_atexit_survives_clear(void)
{
    return pep788_python() >= 0x030E;
}

/* 3.14: leftover subinterpreters are ended before the finalizing flag is set,
   each with atexit callbacks of its own; before, afterwards or never. */
static inline int pep788_subs_end_before_flag(void)
{
    return pep788_python() >= 0x030E;
}

/* 3.12: a queued call always belongs to the main interpreter; before, to the
   current one. */
static inline int pep788_pending_is_per_interpreter(void)
{
    return pep788_python() < 0x030C;
}

/* 3.15: Py_IsInitialized() is 0 as well while Py_Initialize still runs site, whose
   .pth files may import us. Py_IsFinalizing: 3.13. */
static inline int pep788_may_be_finalizing(void)
{
#if PY_VERSION_HEX >= 0x030F0000 && (!defined(Py_LIMITED_API) || Py_LIMITED_API+0 >= 0x030D0000)
    return Py_IsFinalizing();
#else
    return 1;
#endif
}

/* 1 if the state, which is this thread's, is attached: up to 3.11 a fatal error if none
   is. 3.12-3.15 have it in the state, which saves the call. 3.16: not known yet. */
static inline int pep788_is_active(PyThreadState *tstate)
{
#if !defined(Py_LIMITED_API) && PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x03100000
    return tstate->_status.active;
#else
    return tstate == PyThreadState_Get();
#endif
}

#ifndef Py_LIMITED_API
static inline PyThreadState *pep788_current_unchecked(void)
{
#  if PY_VERSION_HEX >= 0x030D0000
    return PyThreadState_GetUnchecked();
#  else
    return _PyThreadState_UncheckedGet();
#  endif
}
#endif

/* New reference: PythonFinalizationError (3.13, gh-114570) or RuntimeError. */
static inline PyObject *pep788_finalization_error(void)
{
#if !defined(Py_LIMITED_API) && PY_VERSION_HEX >= 0x030D0000
    Py_INCREF(PyExc_PythonFinalizationError);
    return PyExc_PythonFinalizationError;
#else
    PyObject *type = NULL;
    if (pep788_python() >= 0x030D) {
        PyObject *builtins = PyImport_ImportModule("builtins");
        if (builtins != NULL) {
            type = PyObject_GetAttrString(builtins, "PythonFinalizationError");
            Py_DECREF(builtins);
        }
        if (type == NULL) {
            PyErr_Clear();
        }
    }
    if (type == NULL) {
        type = PyExc_RuntimeError;
        Py_INCREF(type);
    }
    return type;
#endif
}

static inline void pep788_unraisable(void)
{
#if !defined(Py_LIMITED_API) && PY_VERSION_HEX >= 0x030D0000
    PyErr_FormatUnraisable("Exception ignored while waiting on finalization guards");
#else
    /* PyErr_FormatUnraisable: 3.13, not in the limited API. */
    PyObject *type, *value, *tb, *where;
    PyErr_Fetch(&type, &value, &tb);
    where = PyUnicode_FromString("waiting on finalization guards");
    PyErr_Restore(type, value, tb);
    PyErr_WriteUnraisable(where);
    Py_XDECREF(where);
#endif
}
#endif /* !PEP788_NATIVE */
#else
#  define PEP788_NATIVE 0
#  define PEP788_KEEPS 1
#endif /* !PEP788_ENGINE_ONLY */

/* ------------------------------------------------------------------------- */
/* 2  Portability: atomics, thread-locals, one copy of data, the OS           */
/* ------------------------------------------------------------------------- */

#ifdef _WIN32
/* Its min and max macros break C++; a source that wants more of it than this can
   include the rest itself. */
#  ifndef WIN32_LEAN_AND_MEAN
#    define WIN32_LEAN_AND_MEAN
#    define PEP788_LEAN
#  endif
#  ifndef NOMINMAX
#    define NOMINMAX
#    define PEP788_NOMINMAX
#  endif
#  include <windows.h>
#  ifdef PEP788_LEAN
#    undef WIN32_LEAN_AND_MEAN
#    undef PEP788_LEAN
#  endif
#  ifdef PEP788_NOMINMAX
#    undef NOMINMAX
#    undef PEP788_NOMINMAX
#  endif
#else
#  include <pthread.h>
#  include <sched.h>
#  include <time.h>
#  include <unistd.h>
#  ifndef PEP788_ENGINE_ONLY
#    include <dlfcn.h>
#    ifdef __linux__
#      include <errno.h>
#      include <sys/syscall.h>
#    endif
#    if PEP788_GILSTATE_IS_TLS
#      include <link.h>
#    endif
#  endif
#endif
#ifdef _MSC_VER
#  include <intrin.h>
#endif

#ifdef __cplusplus
#  define PEP788_C_BEGIN extern "C" {
#  define PEP788_C_END }
#else
#  define PEP788_C_BEGIN
#  define PEP788_C_END
#endif

/* One datum a module, however many source files include this header. Their names
   carry version and mode, because the layout of what they name differs: files of
   different ones are like modules of different ones (F2). */
#if defined(_MSC_VER)
#  define PEP788_ONE_COPY __declspec(selectany)
#  define PEP788_THREAD __declspec(thread)
#elif defined(_WIN32)
#  define PEP788_ONE_COPY __attribute__((selectany))
#  define PEP788_THREAD __thread
#else
#  define PEP788_ONE_COPY __attribute__((weak, visibility("hidden")))
#  define PEP788_THREAD __thread
#endif

/* What is rarely run, or costs much anyway, stays out of its callers' way. */
#if defined(PEP788_NOT_INLINE)
/* The model checker's: a call has a stack of its own to compare. */
#elif defined(_MSC_VER)
#  define PEP788_NOT_INLINE static __declspec(noinline)
#else
#  define PEP788_NOT_INLINE static __attribute__((noinline, unused))
#endif

/* Shared words are plain uintptr_t (same layout in C and C++) and are touched
   only through these; the name says the order. Pointers are stored cast. */
typedef uintptr_t pep788_word;
#ifndef PEP788_CUSTOM_ATOMICS
#if defined(_MSC_VER) && !defined(__clang__)
/* Not run here. Interlocked operations are full barriers, more than asked. */
#  ifdef _WIN64
#    define PEP788_MSVC(op) op##64
typedef __int64 pep788_msvc_word;
#  else
#    define PEP788_MSVC(op) op
typedef long pep788_msvc_word;
#  endif
static inline pep788_word pep788_load_seq_cst(const pep788_word *p)
{
    return (pep788_word)PEP788_MSVC(_InterlockedOr)((volatile pep788_msvc_word *)(uintptr_t)p, 0);
}
#  if defined(_M_X64) || defined(_M_IX86)
static inline pep788_word pep788_load_acquire(const pep788_word *p)
{
    pep788_word v = *(const volatile pep788_word *)p;   /* x86: TSO */
    _ReadWriteBarrier();
    return v;
}
#  else
#    define pep788_load_acquire pep788_load_seq_cst
#  endif
static inline pep788_word pep788_load_relaxed(const pep788_word *p)
{
    return *(const volatile pep788_word *)p;
}
static inline pep788_word pep788_exchange_seq_cst(pep788_word *p, pep788_word v)
{
    return (pep788_word)PEP788_MSVC(_InterlockedExchange)(
        (volatile pep788_msvc_word *)p, (pep788_msvc_word)v);
}
#  define pep788_store_relaxed(p, v) ((void)pep788_exchange_seq_cst((p), (v)))
#  define pep788_store_release(p, v) ((void)pep788_exchange_seq_cst((p), (v)))
#  define pep788_store_seq_cst(p, v) ((void)pep788_exchange_seq_cst((p), (v)))
static inline pep788_word pep788_sub_seq_cst(pep788_word *p, pep788_word v)
{
    return (pep788_word)PEP788_MSVC(_InterlockedExchangeAdd)(
        (volatile pep788_msvc_word *)p, -(pep788_msvc_word)v);
}
static inline pep788_word pep788_add_acq_rel(pep788_word *p, pep788_word v)
{
    return (pep788_word)PEP788_MSVC(_InterlockedExchangeAdd)(
        (volatile pep788_msvc_word *)p, (pep788_msvc_word)v);
}
static inline int pep788_cas_seq_cst(pep788_word *p, pep788_word *expected, pep788_word v)
{
    pep788_word old = (pep788_word)PEP788_MSVC(_InterlockedCompareExchange)(
        (volatile pep788_msvc_word *)p, (pep788_msvc_word)v, (pep788_msvc_word)*expected);
    int done = old == *expected;
    *expected = old;
    return done;
}
#else
#  define pep788_load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#  define pep788_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#  define pep788_load_seq_cst(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#  define pep788_store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#  define pep788_store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#  define pep788_store_seq_cst(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#  define pep788_exchange_seq_cst(p, v) __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)
#  define pep788_sub_seq_cst(p, v) __atomic_fetch_sub((p), (v), __ATOMIC_SEQ_CST)
#  define pep788_add_acq_rel(p, v) __atomic_fetch_add((p), (v), __ATOMIC_ACQ_REL)
/* Failure is acquire: the loser acts on the value it saw. */
#  define pep788_cas_seq_cst(p, expected, v) \
    __atomic_compare_exchange_n((p), (expected), (v), 0, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE)
/* Of the compiler only; the processor's is the other side's membarrier. */
#  define pep788_fence_compiler() __atomic_signal_fence(__ATOMIC_SEQ_CST)
#endif
#endif /* PEP788_CUSTOM_ATOMICS */

#define PEP788_PTR(type, p) ((type *)pep788_load_acquire(&(p)))

/* Called in loops that wait for another thread's few instructions. */
#ifndef PEP788_SPIN
static inline void pep788_spin(unsigned *turns)
{
    if (++*turns < 64) {
        return;
    }
#ifdef _WIN32
    Sleep(*turns < 256 ? 0 : 1);
#else
#  ifdef CLOCK_REALTIME
    if (*turns > 256) {     /* the holder may have a lower real-time priority */
        struct timespec nap = {0, 50000};
        (void)nanosleep(&nap, NULL);
        return;
    }
#  endif
    (void)sched_yield();
#endif
}
#  define PEP788_SPIN(turns) pep788_spin(turns)
#endif

/* Seconds on a clock that does not jump, where there is one. */
static inline double pep788_now(void)
{
#ifdef _WIN32
    return (double)GetTickCount64() / 1000.0;
#elif defined(CLOCK_MONOTONIC)
    struct timespec t = {0, 0};
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
#else
    return (double)time(NULL);
#endif
}

static inline void pep788_lock(pep788_word *lock)
{
    unsigned turns = 0;
    pep788_word free_value = 0;
    while (!pep788_cas_seq_cst(lock, &free_value, (pep788_word)1)) {
        free_value = 0;
        PEP788_SPIN(&turns);
    }
}

static inline void pep788_unlock(pep788_word *lock)
{
    pep788_store_release(lock, (pep788_word)0);
}

#define PEP788_LINE 64   /* cells and entries do not share cache lines; 6 free pointer bits */

/* A kept thread state (F6): an entry for each thread and interpreter, see section 5. */
typedef struct pep788_kept pep788_kept;
typedef struct pep788_home pep788_home;
struct pep788_kept {
    pep788_word state;           /* atomic */
    pep788_word light;           /* atomic: 1 while it is in use without a guard; only its thread
                                    writes it */
    pep788_word guard;           /* atomic pep788_cell *: taken for it meanwhile; home->lock */
    pep788_word fence;           /* constant: how others come to know that */
    struct _ts *tstate;
    uint64_t id;                 /* of tstate */
    pep788_home *home;           /* never freed */
    unsigned *inside;            /* its thread's count of Ensures there */
    pep788_kept *next;           /* of this thread; only it looks */
    pep788_kept *after, **link;  /* of the home; home->lock */
    int orphan;                  /* home->lock: its thread has exited */
    int forked;                  /* only its thread came into this child */
    void *block;                 /* what malloc returned */
#if PEP788_NATIVE
    PyInterpreterGuard *native;  /* while BUSY; the entry is the token */
#endif
};
#define PEP788_KEPT_IDLE ((pep788_word)0)    /* detached, or light */
#define PEP788_KEPT_BUSY ((pep788_word)1)    /* in use, with a guard */
#define PEP788_KEPT_GONE ((pep788_word)2)    /* the state is deleted */

/* kept->fence */
#define PEP788_NEVER_LIGHT ((pep788_word)0)
#define PEP788_FENCED ((pep788_word)1)       /* seq_cst on both sides */
#define PEP788_MEMBARRIER ((pep788_word)2)   /* all of it on the closer's */

/* The kept thread states of one interpreter. */
struct pep788_home {
    pep788_word lock;            /* atomic: spin */
    pep788_kept *first;
#if PEP788_NATIVE
    pep788_word interp;          /* atomic: PyInterpreterState *, 0 once it is gone */
    pep788_word ending;          /* atomic: its atexit callbacks have run */
    PyInterpreterView *view;     /* lock */
    pep788_home *next;           /* homes are never freed, the next interpreter takes it */
#endif
};
#define PEP788_DROP 0            /* delete the states */
#define PEP788_DROP_THOSE_LEFT 1 /* CPython may have deleted some */
#define PEP788_FORGET 2          /* CPython has deleted all */

#if !PEP788_NATIVE

/* ------------------------------------------------------------------------- */
/* 3  Data.  ABI 1: shared by all copies of this header in a process, so       */
/*    fields are only ever appended.  Nothing here is ever freed while it can  */
/*    be seen: cells never, records and coordinators are reused as such, so a  */
/*    late Close on another thread always touches memory of the right type.    */
/* ------------------------------------------------------------------------- */

#define PEP788_ABI 1
#ifndef PEP788_SHARDS
#  define PEP788_SHARDS 16     /* a power of 2: threads that never share a cell */
#endif

/* State of a cell, in the low bits of its word; the count is above them.
   0 must be CLOSED: a zeroed record refuses. */
#define PEP788_CLOSED ((pep788_word)0)    /* refuse for ever */
#define PEP788_OPEN ((pep788_word)1)      /* take */
#define PEP788_RETIRED ((pep788_word)2)   /* look at record->current again */
#define PEP788_INSIDERS ((pep788_word)3)  /* threads inside an Ensure only (F9) */
#define PEP788_BUSY ((pep788_word)4)      /* being closed or not: spin */
#define PEP788_STATE ((pep788_word)7)
#define PEP788_UNIT ((pep788_word)8)

/* coordinator->phase */
#define PEP788_PHASE_OPEN ((pep788_word)0)
#define PEP788_PHASE_DRAIN ((pep788_word)1)     /* guards older than the wait */
#define PEP788_PHASE_INSIDERS ((pep788_word)2)  /* those taken since */
#define PEP788_PHASE_CLOSED ((pep788_word)3)

/* record->status */
#define PEP788_NEVER ((pep788_word)0)
#define PEP788_LIVE ((pep788_word)1)
#define PEP788_ENDING ((pep788_word)2)
#define PEP788_ENDED ((pep788_word)3)

/* coordinator->seam */
#define PEP788_SEAM_NONE ((pep788_word)0)
#define PEP788_SEAM_ARMED ((pep788_word)1)
#define PEP788_SEAM_PASSED ((pep788_word)2)

typedef struct pep788_record pep788_record;
typedef struct pep788_coordinator pep788_coordinator;

/* What a PyInterpreterGuard points to: one counted reference. */
typedef struct pep788_cell {
    pep788_word word;            /* atomic: count * UNIT | state */
    pep788_record *record;       /* constant */
    char pad[PEP788_LINE - sizeof(pep788_word) - sizeof(void *)];
} pep788_cell;

/* With PEP788_TRACE a guard points to one of these, tagged. */
typedef struct pep788_traced {
    pep788_cell *cell;
    struct pep788_traced *next, **link;     /* record->traced_lock */
    double since;
    unsigned long thread, native_id;
    void *block;                            /* what malloc returned */
} pep788_traced;

/* What one copy needs of another on the same interpreter. */
typedef struct pep788_ops {
    int abi;
    unsigned (*thread_depth)(pep788_record *record);    /* NULL: of any */
    unsigned (*ensures)(void);
    void (*release)(void *token);
    void (*finalizes_here)(void);
    void (*drop_kept)(pep788_home *home, int how);
    void (*describe)(pep788_record *record);            /* NULL: nothing to add to a report */
} pep788_ops;

/* One copy of this header on one interpreter. */
struct pep788_record {
    pep788_word current;         /* atomic pep788_cell *: row where guards are taken */
    pep788_cell *pair[2];        /* rows of cells; written with coordinator->lock held */
    pep788_cell *spare[2];       /* for the child of a fork */
    size_t shards;               /* cells in a row; constant */
    pep788_word coordinator;     /* atomic pep788_coordinator * */
    pep788_word interp;          /* atomic PyInterpreterState * */
    pep788_word status;          /* atomic */
    pep788_word refs;            /* atomic: views */
    int64_t id;                  /* of the interpreter */
    pep788_record *next;         /* in coordinator->records */
    pep788_record *sibling;      /* in the copy's list, push-only */
    const pep788_ops *ops;
    const char *name;
    pep788_word traced_lock;     /* atomic */
    pep788_traced *traced;
    pep788_home home;            /* F6 */
    pep788_word light;           /* atomic: 1 while kept states need no guard; written with
                                    coordinator->lock held */
    size_t bucket;               /* constant: where threads count their Ensures; main's is 0 */
};

/* One interpreter; joins all copies. Found in the interpreter's dict. */
struct pep788_coordinator {
    int abi;
    int is_main;
    pep788_word lock;            /* atomic: spin; never held across Python or malloc */
    pep788_word main;            /* atomic pep788_coordinator *: the main interpreter's */
    pep788_coordinator *subs;    /* main's: linked subinterpreters */
    pep788_coordinator *next_sub;
    pep788_record *records;
    pep788_word phase;           /* atomic; written with lock held */
    pep788_word seam;            /* atomic */
    pep788_word waiting;         /* atomic: 1 while the finalizing thread sleeps */
    void *wake;                  /* PyThread_type_lock, held at rest */
    pep788_word interp;          /* atomic */
    int64_t id;
    pep788_word revive;          /* atomic: closed, maybe not for good; the closing thread's id */
    pep788_word threading_seen;  /* atomic: when the seam was armed */
    pep788_word closer;          /* atomic: id of the thread that passed the seam, or 0 */
    pep788_word wide;            /* atomic: main's wait, not its own, refuses outsiders */
    pep788_coordinator *pooled;  /* free list of the copy that made it */
    double report_after, give_up_after;     /* seconds; give_up_after < 0: never */
};

/* For reports. */
typedef struct {
    unsigned long thread, native_id;
    double age;                             /* seconds */
} pep788_taker;                             /* a traced guard, as the lists tell */

typedef struct {
    pep788_record *record;
    size_t count;
    long id;                                /* of the interpreter */
} pep788_holder;                            /* a record with open guards */

/* ------------------------------------------------------------------------- */
/* 4  Guards: the state machine.  No Python in this section.                   */
/*                                                                             */
/*    A record has two rows of cells. A thread takes its guards on its own      */
/*    cell of the row `current`; when the wait begins the two rows change      */
/*    places, which splits the guards the wait must outlast from those taken   */
/*    since (F9): nobody can starve it. A guard is closed on the cell it was   */
/*    taken on, by whichever thread.                                           */
/*                                                                             */
/*      current:  OPEN --------> OPEN ----------> INSIDERS --> BUSY --> CLOSED */
/*      other:    RETIRED     RETIRED, drains     RETIRED   --> BUSY --> CLOSED */
/*      phase:    OPEN          DRAIN             INSIDERS             CLOSED  */
/*                                                                             */
/*    Pairing of the seq_cst operations: pep788_leave subtracts, then looks at */
/*    `waiting`; pep788_about_to_sleep sets `waiting`, then looks at the       */
/*    counts. In the single order of seq_cst one of them sees the other, so    */
/*    a wake-up is never lost.                                                 */
/*                                                                             */
/*    A kept thread state (F6) that is idle is taken without a guard (light)    */
/*    as long as nobody finalizes: its thread says so in the entry and then     */
/*    looks at record->light. Who begins to finalize clears that, looks at all  */
/*    entries and takes the guards that are missing; from there on everything   */
/*    is as above. Both store, then load, and one of them must see the other:   */
/*    where membarrier can (Linux 4.14), the finalizing thread executes the     */
/*    fence that is needed for all threads, else both sides are seq_cst.        */
/* ------------------------------------------------------------------------- */

/* 1 if the calling thread is inside an Ensure of any copy, on this record's
   interpreter or, while the main interpreter waits for all, on any. */
#ifndef PEP788_INSIDE
static inline int pep788_inside(pep788_record *record);
#  define PEP788_INSIDE(record) pep788_inside(record)
#endif
/* The calling thread's place in a row. */
#ifndef PEP788_SHARD
static inline size_t pep788_shard(void);
#  define PEP788_SHARD() pep788_shard()
#endif
#ifndef PEP788_POST
#  define PEP788_POST(lock) PyThread_release_lock((PyThread_type_lock)(lock))
#endif
/* A fence on all threads of the process, the caller too. */
#ifndef PEP788_BARRIER
static inline void pep788_barrier(void);
#  define PEP788_BARRIER() pep788_barrier()
#endif

/* Another thread was faster, or the cell, whose word was seen, is not OPEN. */
PEP788_NOT_INLINE pep788_cell *pep788_enter_slowly(pep788_record *record, size_t shard,
                                                   pep788_cell *cell, pep788_word word)
{
    unsigned turns = 0;
    for (;;) {
        switch (word & PEP788_STATE) {
        case PEP788_OPEN:
        case PEP788_INSIDERS:
            if ((word & PEP788_STATE) == PEP788_INSIDERS && !PEP788_INSIDE(record)) {
                return NULL;
            }
            if (pep788_cas_seq_cst(&cell->word, &word, word + PEP788_UNIT)) {
                return cell;
            }
            break;
        case PEP788_RETIRED:
            /* `current` was stored before RETIRED, so this is a newer one. */
            cell = PEP788_PTR(pep788_cell, record->current) + shard;
            word = pep788_load_acquire(&cell->word);
            break;
        case PEP788_BUSY:
            PEP788_SPIN(&turns);
            word = pep788_load_acquire(&cell->word);
            break;
        default:
            return NULL;
        }
    }
}

/* Takes a guard, or NULL. Any thread, no Python, no allocation, no lock. */
static inline pep788_cell *pep788_enter_at(pep788_record *record, size_t shard)
{
    pep788_cell *cell = PEP788_PTR(pep788_cell, record->current);
    pep788_word word;
    if (cell == NULL) {
        return NULL;
    }
    cell += shard;
    word = pep788_load_acquire(&cell->word);
    if ((word & PEP788_STATE) == PEP788_OPEN
        && pep788_cas_seq_cst(&cell->word, &word, word + PEP788_UNIT)) {
        return cell;
    }
    return pep788_enter_slowly(record, shard, cell, word);
}

static inline pep788_cell *pep788_enter(pep788_record *record)
{
    return pep788_enter_at(record, PEP788_SHARD());
}

static inline void pep788_wake(pep788_coordinator *c)
{
    if (c != NULL && pep788_load_seq_cst(&c->waiting) != 0
        && pep788_exchange_seq_cst(&c->waiting, (pep788_word)0) != 0) {
        PEP788_POST(c->wake);
    }
}

PEP788_NOT_INLINE void pep788_wake_waiting(pep788_record *record)
{
    pep788_coordinator *c = PEP788_PTR(pep788_coordinator, record->coordinator);
    if (c != NULL) {
        pep788_coordinator *m = PEP788_PTR(pep788_coordinator, c->main);
        pep788_wake(c);
        if (m != c) {
            pep788_wake(m);
        }
    }
}

/* Gives a guard back. Any thread, no Python. */
static inline void pep788_leave(pep788_cell *cell)
{
    pep788_record *record = cell->record;
    pep788_word word = pep788_sub_seq_cst(&cell->word, PEP788_UNIT);
    pep788_word state = word & PEP788_STATE;
    if (word < 2 * PEP788_UNIT
        && (state == PEP788_RETIRED || state == PEP788_INSIDERS)) {
        pep788_wake_waiting(record);
    }
}

#if PEP788_KEEPS
/* Before the next seq_cst load. */
static inline void pep788_tell(pep788_kept *k, pep788_word light)
{
    if (k->fence == PEP788_MEMBARRIER) {
        pep788_store_release(&k->light, light);
        pep788_fence_compiler();    /* pairs with PEP788_BARRIER in pep788_dim */
    }
    else {
        pep788_store_seq_cst(&k->light, light);
    }
}

/* The entry's thread: gives back the guard that was taken for it, if one was. */
PEP788_NOT_INLINE void pep788_return_guard(pep788_kept *k)
{
    pep788_word guard;
    pep788_lock(&k->home->lock);
    guard = pep788_load_relaxed(&k->guard);
    pep788_store_relaxed(&k->guard, (pep788_word)0);
    pep788_unlock(&k->home->lock);
    if (guard != 0) {
        pep788_leave((pep788_cell *)guard);
    }
}

static inline void pep788_light_off(pep788_record *record, pep788_kept *k)
{
    pep788_tell(k, (pep788_word)0);
    /* In this order: `light` again means that the guard of a round before is there. */
    if (pep788_load_seq_cst(&record->light) == 0 || pep788_load_relaxed(&k->guard) != 0) {
        pep788_return_guard(k);
    }
}

/* 1: the idle entry of this thread may be used, until pep788_light_off. */
static inline int pep788_light_on(pep788_record *record, pep788_kept *k)
{
    if (k->fence == PEP788_NEVER_LIGHT || pep788_load_relaxed(&record->light) == 0) {
        return 0;
    }
    pep788_tell(k, (pep788_word)1);
    if (pep788_load_seq_cst(&record->light) != 0
        && pep788_load_acquire(&k->state) == PEP788_KEPT_IDLE) {
        return 1;
    }
    pep788_light_off(record, k);
    return 0;
}
#endif

/* No state is light from here on: those that are get a guard, on the current row.
   Copies that keep nothing do this for those that do. coordinator->lock held. */
static inline void pep788_dim(pep788_record *record)
{
    pep788_home *home = &record->home;
    pep788_kept *k;
    if (pep788_load_relaxed(&record->light) == 0) {
        return;
    }
    pep788_store_seq_cst(&record->light, (pep788_word)0);
    pep788_lock(&home->lock);   /* who links an entry from here on sees that */
    for (k = home->first; k != NULL && k->fence != PEP788_MEMBARRIER; k = k->after) {
    }
    if (k != NULL) {
        PEP788_BARRIER();       /* pairs with pep788_tell */
    }
    for (k = home->first; k != NULL; k = k->after) {
        if (pep788_load_seq_cst(&k->light) != 0 && pep788_load_relaxed(&k->guard) == 0) {
            pep788_cell *cell = PEP788_PTR(pep788_cell, record->current);
            (void)pep788_add_acq_rel(&cell->word, PEP788_UNIT);
            pep788_store_relaxed(&k->guard, (pep788_word)cell);
        }
    }
    pep788_unlock(&home->lock);
}

static inline void pep788_set_light(pep788_record *record)
{
    pep788_store_release(&record->light, (pep788_word)1);
}

/* For reports: those in use without a guard. */
static inline size_t pep788_light_count(pep788_record *record)
{
    size_t n = 0;
    pep788_kept *k;
    pep788_lock(&record->home.lock);
    for (k = record->home.first; k != NULL; k = k->after) {
        n += pep788_load_acquire(&k->light) != 0 && pep788_load_relaxed(&k->guard) == 0;
    }
    pep788_unlock(&record->home.lock);
    return n;
}

/* Of all cells of a row. */
static inline void pep788_set_state(pep788_record *record, pep788_cell *row, pep788_word state)
{
    size_t i;
    for (i = 0; i < record->shards; i++) {
        pep788_cell *cell = row + i;
        pep788_word word = pep788_load_acquire(&cell->word);
        while (!pep788_cas_seq_cst(&cell->word, &word, (word & ~PEP788_STATE) | state)) {
        }
    }
}

/* Guards open on a row, seen cell by cell. */
static inline size_t pep788_row_count(pep788_record *record, pep788_cell *row)
{
    size_t i, n = 0;
    for (i = 0; i < record->shards; i++) {
        n += pep788_load_seq_cst(&row[i].word) / PEP788_UNIT;
    }
    return n;
}

/* Both rows; where nobody takes guards. */
static inline size_t pep788_record_count(pep788_record *record)
{
    return pep788_row_count(record, record->pair[0]) + pep788_row_count(record, record->pair[1]);
}

/* For reports. */
static inline size_t pep788_open_guards(pep788_record *record)
{
    return pep788_record_count(record) + pep788_light_count(record);
}

static inline pep788_cell *pep788_other(pep788_record *record)
{
    pep788_cell *current = PEP788_PTR(pep788_cell, record->current);
    return record->pair[current == record->pair[0]];
}

/* The functions below act on a set: one interpreter, or (all) the main
   interpreter and every subinterpreter linked to it. Locks: main's first. */
static inline pep788_coordinator *pep788_next(pep788_coordinator *it,
                                              pep788_coordinator *first, int all)
{
    if (!all) {
        return NULL;
    }
    return it == first ? first->subs : it->next_sub;
}

#define PEP788_EACH(it, first, all) \
    for (it = (first); it != NULL; it = pep788_next(it, (first), (all)))

static inline void pep788_lock_set(pep788_coordinator *first, int all)
{
    pep788_coordinator *it;
    PEP788_EACH(it, first, all) {
        pep788_lock(&it->lock);
    }
}

static inline void pep788_unlock_set(pep788_coordinator *first, int all)
{
    pep788_coordinator *it = all ? first->subs : NULL;
    for (; it != NULL; it = it->next_sub) {
        pep788_unlock(&it->lock);
    }
    if (first != NULL) {    /* always; gcc 12 -O2 takes PEP788_EACH for a doubt */
        pep788_unlock(&first->lock);
    }
}

/* After main changed the phase of subinterpreters: one that is waiting at its
   own end must look again. The lock keeps the list; the post takes none. */
static inline void pep788_wake_subs(pep788_coordinator *first, int all)
{
    pep788_coordinator *it;
    if (all) {
        pep788_lock(&first->lock);
        for (it = first->subs; it != NULL; it = it->next_sub) {
            pep788_wake(it);
        }
        pep788_unlock(&first->lock);
    }
}

/* Gives the cells the states that belong to a phase other than CLOSED. */
static inline void pep788_apply(pep788_coordinator *c, pep788_word phase, int wide)
{
    pep788_record *r;
    if (wide) {
        pep788_store_release(&c->wide, (pep788_word)1);     /* before any cell refuses */
    }
    for (r = c->records; r != NULL; r = r->next) {
        if (phase != PEP788_PHASE_OPEN) {
            pep788_dim(r);
        }
        pep788_set_state(r, PEP788_PTR(pep788_cell, r->current),
                         phase == PEP788_PHASE_INSIDERS ? PEP788_INSIDERS : PEP788_OPEN);
        pep788_set_state(r, pep788_other(r), PEP788_RETIRED);
        if (phase == PEP788_PHASE_OPEN) {
            pep788_set_light(r);
        }
    }
    if (!wide) {
        pep788_store_release(&c->wide, (pep788_word)0);
    }
    pep788_store_release(&c->phase, phase);
}

/* OPEN -> DRAIN: the rows change places. */
static inline void pep788_begin_wait(pep788_coordinator *first, int all)
{
    pep788_coordinator *c;
    pep788_record *r;
    pep788_lock_set(first, all);
    PEP788_EACH(c, first, all) {
        if (pep788_load_acquire(&c->phase) != PEP788_PHASE_OPEN) {
            continue;
        }
        for (r = c->records; r != NULL; r = r->next) {
            pep788_cell *old = PEP788_PTR(pep788_cell, r->current);
            pep788_cell *young = pep788_other(r);
            pep788_dim(r);
            pep788_set_state(r, young, PEP788_OPEN);
            pep788_store_release(&r->current, (pep788_word)young);
            pep788_set_state(r, old, PEP788_RETIRED);
        }
        pep788_store_release(&c->phase, PEP788_PHASE_DRAIN);
    }
    pep788_unlock_set(first, all);
}

/* Guards open on one interpreter; `young`: those on the current rows, too. */
static inline size_t pep788_count(pep788_coordinator *c, int young)
{
    size_t n = 0;
    pep788_record *r;
    for (r = c->records; r != NULL; r = r->next) {
        n += pep788_row_count(r, pep788_other(r));
        if (young) {
            n += pep788_row_count(r, PEP788_PTR(pep788_cell, r->current));
        }
    }
    return n;
}

/* 1 when the wait can go on: from DRAIN to INSIDERS, or to the end. */
static inline int pep788_ready_locked(pep788_coordinator *first, int all)
{
    pep788_coordinator *c;
    int drain = pep788_load_acquire(&first->phase) == PEP788_PHASE_DRAIN;
    PEP788_EACH(c, first, all) {
        if (pep788_load_acquire(&c->phase) != PEP788_PHASE_CLOSED
            && pep788_count(c, !drain) != 0) {
            return 0;
        }
    }
    return 1;
}

/* DRAIN -> INSIDERS. */
static inline void pep788_refuse_newcomers_locked(pep788_coordinator *first, int all)
{
    pep788_coordinator *c;
    PEP788_EACH(c, first, all) {
        if (pep788_load_acquire(&c->phase) == PEP788_PHASE_DRAIN) {
            pep788_apply(c, PEP788_PHASE_INSIDERS, c != first);
        }
    }
}

/* Moves the wait on as far as it goes; 1 when no guard is open in the set. */
static inline int pep788_step(pep788_coordinator *first, int all)
{
    int quiet;
    pep788_lock_set(first, all);
    if (pep788_load_acquire(&first->phase) == PEP788_PHASE_DRAIN
        && pep788_ready_locked(first, all)) {
        pep788_refuse_newcomers_locked(first, all);
    }
    quiet = pep788_load_acquire(&first->phase) != PEP788_PHASE_DRAIN
            && pep788_ready_locked(first, all);
    pep788_unlock_set(first, all);
    return quiet;
}

/* Newcomers are refused although guards from before the wait are still open. */
static inline void pep788_last_call(pep788_coordinator *first, int all)
{
    pep788_lock_set(first, all);
    pep788_refuse_newcomers_locked(first, all);
    pep788_unlock_set(first, all);
}

/* 1 if the caller may sleep; then it must call pep788_slept. */
static inline int pep788_about_to_sleep(pep788_coordinator *first, int all)
{
    int ready;
    pep788_store_seq_cst(&first->waiting, (pep788_word)1);
    pep788_lock_set(first, all);
    ready = pep788_ready_locked(first, all)
            || pep788_load_acquire(&first->phase) == PEP788_PHASE_OPEN;
    pep788_unlock_set(first, all);
    return !ready;
}

/* After a sleep that no post ended (or none at all): 1 if a post is under way
   nevertheless and must be taken. */
static inline int pep788_slept(pep788_coordinator *first)
{
    return pep788_exchange_seq_cst(&first->waiting, (pep788_word)0) == 0;
}

static inline void pep788_close_locked(pep788_coordinator *c)
{
    pep788_record *r;
    for (r = c->records; r != NULL; r = r->next) {
        pep788_dim(r);
        pep788_store_release(&r->status, PEP788_ENDING);
        pep788_set_state(r, r->pair[0], PEP788_CLOSED);
        pep788_set_state(r, r->pair[1], PEP788_CLOSED);
    }
    pep788_store_release(&c->phase, PEP788_PHASE_CLOSED);
}

/* The step from "no guard open" to "no guard ever again": every cell is first
   made BUSY, which only succeeds at count 0, so nobody is handed a guard that
   is then ignored (G6), in whichever copy (F2). 1 if closed; else nothing
   changed. keep_subs: subinterpreters must be quiet, but stay open. */
static inline int pep788_try_close(pep788_coordinator *first, int all, int keep_subs)
{
    pep788_coordinator *c;
    pep788_record *r;
    size_t i;
    int ok = 1;
    pep788_lock_set(first, all);
    PEP788_EACH(c, first, all) {
        if (pep788_load_acquire(&c->phase) == PEP788_PHASE_CLOSED) {
            continue;
        }
        for (r = c->records; r != NULL && ok; r = r->next) {
            pep788_dim(r);
            for (i = 0; i < 2 * r->shards && ok; i++) {
                pep788_cell *cell = r->pair[i / r->shards] + i % r->shards;
                pep788_word word = pep788_load_acquire(&cell->word);
                do {
                    ok = word < PEP788_UNIT;
                } while (ok && !pep788_cas_seq_cst(&cell->word, &word, PEP788_BUSY));
            }
        }
    }
    PEP788_EACH(c, first, all) {
        pep788_word phase = pep788_load_acquire(&c->phase);
        if (phase == PEP788_PHASE_CLOSED) {
            continue;
        }
        if (!ok) {
            pep788_apply(c, phase, pep788_load_acquire(&c->wide) != 0);
        }
        else if (keep_subs && c != first) {
            pep788_apply(c, PEP788_PHASE_OPEN, 0);
        }
        else {
            pep788_close_locked(c);
        }
    }
    pep788_unlock_set(first, all);
    pep788_wake_subs(first, all);
    return ok;
}

/* Back to OPEN from a wait (G6: a new round), or (revive) from CLOSED. */
static inline void pep788_reopen(pep788_coordinator *first, int all, int revive)
{
    pep788_coordinator *c;
    pep788_lock_set(first, all);
    PEP788_EACH(c, first, all) {
        /* Not a subinterpreter that has come to its own end meanwhile. */
        int back = revive && (c == first
                              || pep788_load_acquire(&c->seam) != PEP788_SEAM_PASSED);
        if (pep788_load_acquire(&c->phase) != PEP788_PHASE_CLOSED || back) {
            pep788_record *r;
            pep788_apply(c, PEP788_PHASE_OPEN, 0);
            for (r = c->records; r != NULL; r = r->next) {
                pep788_store_release(&r->status, PEP788_LIVE);
            }
        }
    }
    pep788_unlock_set(first, all);
    pep788_wake_subs(first, all);
}

/* Closes whatever is open: too late to wait, or the user's limit is reached. */
static inline void pep788_abandon(pep788_coordinator *first, int all)
{
    pep788_coordinator *c;
    pep788_lock_set(first, all);
    PEP788_EACH(c, first, all) {
        pep788_close_locked(c);
    }
    pep788_unlock_set(first, all);
    pep788_wake_subs(first, all);
}

/* Two rows in one zeroed (CLOSED) block, aligned; 0 if out of memory. */
static inline int pep788_new_pair(pep788_cell **pair, pep788_record *record)
{
    size_t i, cells = 2 * record->shards;
    char *block = (char *)malloc((cells + 1) * sizeof(pep788_cell));
    if (block == NULL) {
        return 0;
    }
    block += (PEP788_LINE - (uintptr_t)block % PEP788_LINE) % PEP788_LINE;
    memset(block, 0, cells * sizeof(pep788_cell));
    pair[0] = (pep788_cell *)(void *)block;
    pair[1] = pair[0] + record->shards;
    for (i = 0; i < cells; i++) {
        pair[0][i].record = record;
    }
    return 1;
}

/* Gives a record that nobody sees its pair of rows and puts it among the
   copies of an interpreter, in the phase that one is in. lock held. */
static inline void pep788_join_locked(pep788_coordinator *c, pep788_record *r)
{
    pep788_word phase = pep788_load_acquire(&c->phase);
    r->next = c->records;
    pep788_store_release(&r->coordinator, (pep788_word)c);
    if (phase == PEP788_PHASE_CLOSED) {
        pep788_store_release(&r->current, (pep788_word)r->pair[0]);
        pep788_store_release(&r->status, PEP788_ENDING);
    }
    else {
        pep788_set_state(r, r->pair[0],
                         phase == PEP788_PHASE_INSIDERS ? PEP788_INSIDERS : PEP788_OPEN);
        pep788_set_state(r, r->pair[1], PEP788_RETIRED);
        pep788_store_release(&r->current, (pep788_word)r->pair[0]);
        pep788_store_release(&r->status, PEP788_LIVE);
        if (phase == PEP788_PHASE_OPEN) {
            pep788_set_light(r);
        }
    }
    c->records = r;
}

/* In the child of a fork, the only thread. Guards of the parent go on counting
   on cells that nobody looks at (F1). */
static inline void pep788_after_fork_in_child(pep788_record *r)
{
    pep788_coordinator *c = PEP788_PTR(pep788_coordinator, r->coordinator);
    pep788_word phase, status = pep788_load_acquire(&r->status);
    pep788_store_relaxed(&r->home.lock, (pep788_word)0);
    if (c == NULL || (status != PEP788_LIVE && status != PEP788_ENDING)) {
        return;
    }
    phase = pep788_load_acquire(&c->phase);
    pep788_store_relaxed(&c->lock, (pep788_word)0);
    pep788_store_relaxed(&r->traced_lock, (pep788_word)0);
    r->traced = NULL;
    if (pep788_record_count(r) != 0) {
        if (r->spare[0] == NULL && !pep788_new_pair(r->spare, r)) {
            /* No memory: refuse, and take no part in the child's wait. */
            pep788_record **link = &c->records;
            while (*link != NULL && *link != r) {
                link = &(*link)->next;
            }
            if (*link == r) {
                *link = r->next;
            }
            pep788_set_state(r, r->pair[0], PEP788_CLOSED);
            pep788_set_state(r, r->pair[1], PEP788_CLOSED);
            pep788_store_release(&r->light, (pep788_word)0);
            pep788_store_release(&r->status, PEP788_ENDED);
            return;
        }
        r->pair[0] = r->spare[0];
        r->pair[1] = r->spare[1];
        r->spare[0] = r->spare[1] = NULL;
        pep788_store_release(&r->current, (pep788_word)r->pair[0]);
    }
    if (phase != PEP788_PHASE_CLOSED) {
        pep788_set_state(r, PEP788_PTR(pep788_cell, r->current), PEP788_OPEN);
        pep788_set_state(r, pep788_other(r), PEP788_RETIRED);
        pep788_store_release(&r->status, PEP788_LIVE);
        pep788_set_light(r);    /* pep788_kept_in_child is next */
    }
}

#endif /* !PEP788_NATIVE */

#ifndef PEP788_ENGINE_ONLY

#ifdef __cplusplus
#  define PEP788_ZERO {}
#else
#  define PEP788_ZERO {0}
#endif

/* pep788_shared_0x00010000_full */
#if PEP788_NATIVE
#  define PEP788_MODE native
#elif PEP788_LATE_NATIVE
#  define PEP788_MODE abi3late
#elif defined(Py_LIMITED_API)
#  define PEP788_MODE abi3
#else
#  define PEP788_MODE full
#endif
#define PEP788_PASTE_3(name, version, mode) name##_##version##_##mode
#define PEP788_PASTE(name, version, mode) PEP788_PASTE_3(name, version, mode)
#define PEP788_NAME(name) PEP788_PASTE(name, PEP788_VERSION_HEX, PEP788_MODE)
#define pep788_shared PEP788_NAME(pep788_shared)
#define pep788_tls PEP788_NAME(pep788_tls)
#define pep788_gilstate PEP788_NAME(pep788_gilstate)
#define pep788_main_view PEP788_NAME(pep788_main_view)
#define pep788_kept_shared PEP788_NAME(pep788_kept_shared)
#define pep788_kept_tls PEP788_NAME(pep788_kept_tls)

/* Why the last call of this thread gave NULL. */
typedef enum {
    PEP788_OK = 0,
    PEP788_NOT_INITIALIZED = 1,  /* no interpreter yet, or Pep788_Init was not called in it */
    PEP788_FINALIZING = 2,       /* finalization has passed its point of no return */
    PEP788_GONE = 3,             /* the interpreter was destroyed */
    PEP788_NO_MEMORY = 4
} Pep788_Failure;

/* atexit.register(a function with that self); -1 with an exception. Attached. */
static inline int pep788_call_at_exit(PyMethodDef *method, PyObject *self)
{
    PyObject *atexit = PyImport_ImportModule("atexit");
    PyObject *function = atexit == NULL ? NULL : PyCFunction_NewEx(method, self, NULL);
    PyObject *result = function == NULL ? NULL
                       : PyObject_CallMethod(atexit, "register", "O", function);
    Py_XDECREF(function);
    Py_XDECREF(atexit);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

#if !PEP788_NATIVE

/* ------------------------------------------------------------------------- */
/* 5  Thread states                                                           */
/* ------------------------------------------------------------------------- */

/* A token is the guard's pointer and what Release must undo; cells are aligned
   to 64. Without any tag it is the thread state that Release re-attaches. */
#define PEP788_NESTED ((pep788_word)1)      /* nothing */
#define PEP788_REATTACHED ((pep788_word)2)  /* detach */
#define PEP788_FRESH ((pep788_word)4)       /* clear and delete */
#define PEP788_OWNS ((pep788_word)8)        /* close the guard */
#define PEP788_FRAMED ((pep788_word)16)     /* see the top pep788_frame */
#define PEP788_TRACED ((pep788_word)32)     /* of guards, too: a pep788_traced */
#define PEP788_TAGS ((pep788_word)(PEP788_LINE - 1))
#define PEP788_KEPT (PEP788_REATTACHED | PEP788_FRESH)  /* detach and unbind (F6); without
                                                           OWNS the pep788_kept of a light one */

/* Rare Ensures that undo more than fits into a token. */
typedef struct pep788_frame {
    struct pep788_frame *next;
    PyThreadState *attached, *previous;     /* previous: was attached, or NULL */
    PyThreadState *bound;                   /* gilstate to restore */
    pep788_record *bound_record;            /* 3.12+: its interpreter's */
    int64_t bound_id;
    int fresh, rebound;
    pep788_word guard;                      /* with PEP788_OWNS if so */
} pep788_frame;

#define PEP788_BUCKETS 8
typedef struct {
    unsigned inside[PEP788_BUCKETS + 1];    /* Ensures without Release, by record->bucket;
                                               last: with traced guards */
    unsigned everywhere;         /* counts as inside every interpreter */
    unsigned shard;              /* its place in a row + 1; 0: none yet */
    Pep788_Failure failure;
    pep788_frame *frames;
    PyThreadState *fresh;        /* of the open PEP788_FRESH token, or NULL */
    pep788_word gil_guard;       /* PEP788_REPLACE_GILSTATE */
    unsigned gil_depth;
    unsigned gil_attaches;       /* those that attached, if the outermost one did */
} pep788_thread;

typedef struct {
    pep788_record main;          /* the main interpreter's, of every Py_Initialize */
    pep788_ops ops;              /* this copy as seen by others; written by look_up */
    pep788_word subs;            /* atomic: pep788_record list, push-only */
    pep788_word pool_lock;       /* atomic: subs reuse, coordinators */
    pep788_coordinator *pool;
    pep788_word forks;           /* atomic: handlers installed */
    pep788_word threads;         /* atomic: those that have a place in a row */
    pep788_word embeds;          /* atomic: section 9 */
    pep788_word trace;           /* atomic */
    pep788_word gilstate_key;    /* atomic: 0 not known, 1 not found, else key + 2; 3.9-3.14 */
    pep788_word thread_id_at;    /* atomic: offset; abi3 on 3.9-3.11 */
    pep788_word symbols;         /* atomic: 2 when looked up */
    pep788_word python;          /* atomic: 0x030C on 3.12 */
    PyThreadState *(*unchecked)(void);
    PyInterpreterState *(*interp_of)(PyThreadState *);
    PyInterpreterState *(*main_interp)(void);
    int (*gilstate_check)(void);
    ptrdiff_t (*read_process)(int, const void *, unsigned long, const void *,
                              unsigned long, unsigned long);
    long (*system_call)(long, ...);
    int (*pending_312)(PyInterpreterState *, int (*)(void *), void *, int);
    PyThreadState *(*prealloc_311)(PyInterpreterState *);
    void (*set_current_311)(PyThreadState *);
#if PEP788_LATE_NATIVE
    PyInterpreterGuard *(*guard_from_current)(void);
    PyInterpreterGuard *(*guard_from_view)(PyInterpreterView *);
    void (*guard_close)(PyInterpreterGuard *);
    PyInterpreterView *(*view_from_current)(void);
    PyInterpreterView *(*view_from_main)(void);
    void (*view_close)(PyInterpreterView *);
    PyThreadStateToken *(*ensure)(PyInterpreterGuard *);
    PyThreadStateToken *(*ensure_from_view)(PyInterpreterView *);
    void (*release)(PyThreadStateToken *);
    int (*is_finalizing)(void);
#endif
} pep788_copy;

PEP788_C_BEGIN
PEP788_ONE_COPY pep788_copy pep788_shared = PEP788_ZERO;
PEP788_ONE_COPY PEP788_THREAD pep788_thread pep788_tls = PEP788_ZERO;
PEP788_C_END

/* Where the compiler would call __tls_get_addr for each use, once. */
static inline pep788_thread *pep788_this_thread(void)
{
    pep788_thread *t = &pep788_tls;
#if defined(__GNUC__) && !defined(_WIN32)
    __asm__("" : "+r"(t));
#endif
    return t;
}

/* Functions that a header or the limited API does not declare. */
static inline void *pep788_symbol(const char *name)
{
#ifdef _WIN32
    HMODULE module = NULL;
    if (!GetModuleHandleExA(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS
                                | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT,
                            (LPCSTR)(void *)PyErr_Clear, &module)) {
        return NULL;
    }
    return (void *)GetProcAddress(module, name);
#elif defined(RTLD_DEFAULT)
    return dlsym(RTLD_DEFAULT, name);
#else
    return dlsym(NULL, name);   /* glibc hides the name without _GNU_SOURCE */
#endif
}

#ifdef SYS_membarrier
#  define PEP788_REGISTER_EXPEDITED 16   /* MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, Linux 4.14 */
#  define PEP788_EXPEDITED 8             /* MEMBARRIER_CMD_PRIVATE_EXPEDITED */
#else
#  define PEP788_REGISTER_EXPEDITED 0
#endif

#define PEP788_LOOK_UP(field, name) \
    do { \
        void *found = pep788_symbol(name); \
        memcpy(&pep788_shared.field, &found, sizeof(found)); \
    } while (0)

/* Ensures without Release of this copy on this thread. */
static inline unsigned pep788_ensures(void)
{
    unsigned i, n = 0;
    for (i = 0; i <= PEP788_BUCKETS; i++) {
        n += pep788_tls.inside[i];
    }
    return n;
}

/* Two subinterpreters of a bucket are taken for one: F9 then holds for the two
   together only. */
static inline unsigned pep788_thread_depth(pep788_record *record)
{
    return pep788_tls.everywhere
           + (record == NULL ? pep788_ensures() : pep788_tls.inside[record->bucket]
                                                  + pep788_tls.inside[PEP788_BUCKETS]);
}

/* Where an Ensure with that guard is counted. A traced one may be closed (and
   freed) before the Release, so it counts for all. */
static inline unsigned *pep788_counter(pep788_thread *t, pep788_word guard)
{
    size_t i = PEP788_BUCKETS;
    if (!(guard & PEP788_TRACED)) {
        i = ((pep788_cell *)(guard & ~PEP788_TAGS))->record->bucket;
    }
    return &t->inside[i];
}

static inline void pep788_detach(void *token);
static inline void pep788_finalizes_here(void);
static inline void pep788_drop_kept(pep788_home *home, int how);

/* Once a copy; any thread, no Python object. */
static inline void pep788_look_up(void)
{
    pep788_word none = 0;
    unsigned turns = 0;
    if (pep788_load_acquire(&pep788_shared.symbols) == 2) {
        return;
    }
    if (!pep788_cas_seq_cst(&pep788_shared.symbols, &none, (pep788_word)1)) {
        while (pep788_load_acquire(&pep788_shared.symbols) != 2) {
            PEP788_SPIN(&turns);
        }
        return;
    }
    pep788_shared.main.shards = PEP788_SHARDS;
    pep788_shared.ops.abi = PEP788_ABI;
    pep788_shared.ops.thread_depth = pep788_thread_depth;
    pep788_shared.ops.ensures = pep788_ensures;
    pep788_shared.ops.release = pep788_detach;
    pep788_shared.ops.finalizes_here = pep788_finalizes_here;
    pep788_shared.ops.drop_kept = pep788_drop_kept;
#ifdef Py_LIMITED_API
    {
        const char *version = Py_GetVersion();   /* "3.12.1 (main, ..." */
        pep788_store_relaxed(&pep788_shared.python,
                             (pep788_word)(0x0300 + strtol(version + 2, NULL, 10)));
    }
    PEP788_LOOK_UP(unchecked, "PyThreadState_GetUnchecked");
    if (pep788_shared.unchecked == NULL) {
        PEP788_LOOK_UP(unchecked, "_PyThreadState_UncheckedGet");
    }
    PEP788_LOOK_UP(interp_of, "PyThreadState_GetInterpreter");
    PEP788_LOOK_UP(main_interp, "PyInterpreterState_Main");
    PEP788_LOOK_UP(gilstate_check, "PyGILState_Check");
#endif
#ifdef __linux__
    PEP788_LOOK_UP(read_process, "process_vm_readv");
    PEP788_LOOK_UP(system_call, "syscall");     /* <unistd.h> hides it in C11 mode */
#endif
    PEP788_LOOK_UP(pending_312, "_PyEval_AddPendingCall");
    PEP788_LOOK_UP(prealloc_311, "_PyThreadState_Prealloc");
    PEP788_LOOK_UP(set_current_311, "_PyThreadState_SetCurrent");
#if PEP788_LATE_NATIVE
    PEP788_LOOK_UP(guard_from_current, "PyInterpreterGuard_FromCurrent");
    PEP788_LOOK_UP(guard_from_view, "PyInterpreterGuard_FromView");
    PEP788_LOOK_UP(guard_close, "PyInterpreterGuard_Close");
    PEP788_LOOK_UP(view_from_current, "PyInterpreterView_FromCurrent");
    PEP788_LOOK_UP(view_from_main, "PyInterpreterView_FromMain");
    PEP788_LOOK_UP(view_close, "PyInterpreterView_Close");
    PEP788_LOOK_UP(ensure, "PyThreadState_Ensure");
    PEP788_LOOK_UP(ensure_from_view, "PyThreadState_EnsureFromView");
    PEP788_LOOK_UP(release, "PyThreadState_Release");
    PEP788_LOOK_UP(is_finalizing, "Py_IsFinalizing");   /* 3.13, so there with the rest */
#endif
    pep788_store_release(&pep788_shared.symbols, (pep788_word)2);
}

/* 0, or -1 where there is no such system call or it is forbidden. */
static inline int pep788_call_membarrier(int command)
{
#ifdef SYS_membarrier
    int error = errno;
    long result = -1;
    pep788_look_up();
    if (pep788_shared.system_call != NULL) {
        result = pep788_shared.system_call(SYS_membarrier, command, 0, 0);
        errno = error;
    }
    return result == 0 ? 0 : -1;
#else
    (void)command;
    return -1;
#endif
}

/* membarrier does not fail once the process was registered, unless it was forbidden
   afterwards (seccomp); then the time that a store needs to become visible, which is
   nanoseconds, must do. */
static inline void pep788_barrier(void)
{
#ifdef SYS_membarrier
    if (pep788_call_membarrier(PEP788_EXPEDITED) != 0) {
        struct timespec nap = {0, 1000000};
        (void)nanosleep(&nap, NULL);
    }
#endif
}

#ifdef Py_LIMITED_API
static inline int pep788_python(void)
{
    pep788_look_up();
    return (int)pep788_load_relaxed(&pep788_shared.python);
}
static inline PyInterpreterState *pep788_interp_of(PyThreadState *tstate)
{
    pep788_look_up();
    return pep788_shared.interp_of(tstate);
}
static inline PyInterpreterState *pep788_main_interp(void)
{
    pep788_look_up();
    return pep788_shared.main_interp == NULL ? NULL : pep788_shared.main_interp();
}
static inline PyThreadState *pep788_current_unchecked(void)
{
    pep788_look_up();
    return pep788_shared.unchecked();
}
static inline int pep788_gilstate_check(void)
{
    pep788_look_up();
    return pep788_shared.gilstate_check == NULL ? 1 : pep788_shared.gilstate_check();
}
#  define PEP788_THREAD_ID_AT pep788_load_relaxed(&pep788_shared.thread_id_at)
#else
#  define pep788_interp_of(tstate) ((tstate)->interp)     /* a call less */
#  define pep788_main_interp PyInterpreterState_Main
#  define pep788_gilstate_check PyGILState_Check
#  define PEP788_THREAD_ID_AT offsetof(PyThreadState, thread_id)
#endif

/* The key that holds each thread's gilstate, found by what it holds, and verified; there
   is no public way to it. It spares a call in each Ensure; and 3.9-3.11 bind the gilstate
   to a thread's first thread state, for good: under a state of another interpreter a
   nested PyGILState_Ensure deadlocks, unless it is written. All that has it is frozen.
   Elsewhere (Windows, other systems) that deadlock is a limit. */
#if defined(__linux__) || defined(__APPLE__) || defined(__FreeBSD__)
PEP788_NOT_INLINE pep788_word pep788_search_gilstate_key(void)
{
    PyThreadState *bound = PyGILState_GetThisThreadState();
    unsigned k, end = 512;
    char probe;
#  ifdef PTHREAD_KEYS_MAX
    end = PTHREAD_KEYS_MAX;
#  endif
    if (bound == NULL) {
        return 0;
    }
    for (k = 0; k < end; k++) {
        pthread_key_t key = (pthread_key_t)k;
        int found;
        if (pthread_getspecific(key) != (void *)bound
            || pthread_setspecific(key, &probe) != 0) {
            continue;
        }
        found = (void *)PyGILState_GetThisThreadState() == (void *)&probe;
        (void)pthread_setspecific(key, bound);
        if (found) {
            return (pep788_word)k + 2;
        }
    }
    return 1;
}

/* Attached. `renew`: it is another one after each Py_Initialize. */
static inline void pep788_find_gilstate_key(int renew)
{
    if (pep788_gilstate_is_in_key()
        && (renew || pep788_load_acquire(&pep788_shared.gilstate_key) == 0)) {
        pep788_store_release(&pep788_shared.gilstate_key, pep788_search_gilstate_key());
    }
}

/* In the child of a fork CPython makes a new one. */
static inline void pep788_forget_gilstate_key(void)
{
    pep788_store_release(&pep788_shared.gilstate_key, (pep788_word)0);
}

static inline int pep788_bind_gilstate(void *tstate)
{
    pep788_word key = pep788_load_acquire(&pep788_shared.gilstate_key);
    /* Another library's, if Python was initialized again without this copy. */
    return key > 1
           && pthread_getspecific((pthread_key_t)(key - 2)) == PyGILState_GetThisThreadState()
           && pthread_setspecific((pthread_key_t)(key - 2), tstate) == 0;
}

/* This thread's gilstate. This copy is set up, or what is returned is verified: the key
   may be of a Py_Initialize before. */
static inline PyThreadState *pep788_bound(void)
{
    pep788_word key = pep788_load_acquire(&pep788_shared.gilstate_key);
    return key > 1 ? (PyThreadState *)pthread_getspecific((pthread_key_t)(key - 2))
                   : PyGILState_GetThisThreadState();
}
#else
static inline void pep788_find_gilstate_key(int renew) { (void)renew; }
static inline void pep788_forget_gilstate_key(void) {}
static inline int pep788_bind_gilstate(void *tstate) { (void)tstate; return 0; }
#  define pep788_bound PyGILState_GetThisThreadState
#endif

/* 3.9-3.11: does this state, which holds the GIL, run on this thread? It may
   belong to another thread and be freed while we look, so it is read through
   the kernel where that is possible (Linux); elsewhere a plain read of memory
   that may just have been freed: a known limit, docs/limits.md. */
static inline int pep788_runs_here(PyThreadState *tstate)
{
    unsigned long id = 0;
    size_t at = PEP788_THREAD_ID_AT;
    const char *address = (const char *)tstate + at;
    if (at == 0) {
        return 0;
    }
#ifdef __linux__
    if (pep788_shared.read_process != NULL) {
        struct { void *base; size_t size; } to, from;   /* struct iovec */
        ptrdiff_t n;
        to.base = &id;
        from.base = (void *)(uintptr_t)address;
        to.size = from.size = sizeof(id);
        n = pep788_shared.read_process((int)getpid(), &to, 1, &from, 1, 0);
        if (n == (ptrdiff_t)sizeof(id)) {
            return id == PyThread_get_thread_ident();
        }
        /* EPERM or ENOSYS under seccomp: same as elsewhere. EFAULT: freed. */
        to.base = &to;
        if (pep788_shared.read_process((int)getpid(), &to, 0, &from, 0, 0) == 0) {
            return 0;
        }
    }
#endif
    memcpy(&id, address, sizeof(id));
    return id == PyThread_get_thread_ident();
}

/* 3.9-3.11: tstate is attached somewhere, and not what pep788_bound says. */
PEP788_NOT_INLINE PyThreadState *pep788_current_if_here(PyThreadState *tstate)
{
    if (tstate == PyGILState_GetThisThreadState()) {
        return tstate;
    }
    if (pep788_tls.frames != NULL && pep788_tls.frames->attached == tstate) {
        return tstate;
    }
    /* Exact until the first subinterpreter; from then on it always says 1. */
    if (!pep788_gilstate_check()) {
        return NULL;
    }
    return pep788_runs_here(tstate) ? tstate : NULL;
}

/* The attached thread state of this thread, or NULL. */
static inline PyThreadState *pep788_current(void)
{
    PyThreadState *tstate = pep788_current_unchecked();
    if (tstate == NULL || pep788_current_is_thread_local()
        || tstate == pep788_bound()) {
        return tstate;
    }
    return pep788_current_if_here(tstate);
}

/* In turn: as many threads as there are cells in a row never share one. */
PEP788_NOT_INLINE void pep788_take_shard(pep788_thread *t)
{
    t->shard = 1 + (unsigned)pep788_add_acq_rel(&pep788_shared.threads, (pep788_word)1)
                       % PEP788_SHARDS;
}

static inline size_t pep788_shard_of(pep788_thread *t)
{
    if (t->shard == 0) {
        pep788_take_shard(t);
    }
    return t->shard - 1;
}

static inline size_t pep788_shard(void)
{
    return pep788_shard_of(pep788_this_thread());
}

static inline int pep788_inside(pep788_record *record)
{
    pep788_coordinator *c = PEP788_PTR(pep788_coordinator, record->coordinator);
    pep788_record *r;
    int any = c == NULL || PEP788_PTR(pep788_coordinator, c->main) == c
              || pep788_load_acquire(&c->wide) != 0;
    int inside = pep788_thread_depth(any ? NULL : record) != 0;
    if (!inside && c != NULL) {
        pep788_lock(&c->lock);
        for (r = c->records; r != NULL && !inside; r = r->next) {
            inside = r->ops->thread_depth(any ? NULL : r) != 0;
        }
        pep788_unlock(&c->lock);
    }
    return inside;
}

/* -- guards as words: a cell's address, or a traced one's with a tag -- */

static inline pep788_cell *pep788_cell_of(pep788_word guard)
{
    if (guard & PEP788_TRACED) {
        return ((pep788_traced *)(guard & ~PEP788_TAGS))->cell;
    }
    return (pep788_cell *)(guard & ~PEP788_TAGS);
}

/* 0 if its record's rows were replaced (fork, a later Py_Initialize). */
static inline int pep788_is_on_pair(const pep788_cell *cell)
{
    const pep788_record *r = cell->record;
    return ((uintptr_t)cell - (uintptr_t)r->pair[0]) / sizeof(*cell) < r->shards
           || ((uintptr_t)cell - (uintptr_t)r->pair[1]) / sizeof(*cell) < r->shards;
}

/* Gives the cell up and returns 0 if there is no memory. */
static inline pep788_word pep788_trace(pep788_cell *cell)
{
    pep788_record *r = cell->record;
    void *block = malloc(sizeof(pep788_traced) + PEP788_LINE);
    pep788_traced *t;
    if (block == NULL) {
        pep788_leave(cell);
        return 0;
    }
    t = (pep788_traced *)(((uintptr_t)block + PEP788_TAGS) & ~(uintptr_t)PEP788_TAGS);
    t->cell = cell;
    t->block = block;
    t->since = pep788_now();
    t->thread = PyThread_get_thread_ident();
    t->native_id = 0;
#ifdef PY_HAVE_THREAD_NATIVE_ID
    t->native_id = PyThread_get_thread_native_id();
#endif
    pep788_lock(&r->traced_lock);
    if (pep788_is_on_pair(cell)) {
        t->next = r->traced;
        t->link = &r->traced;
        if (t->next != NULL) {
            t->next->link = &t->next;
        }
        r->traced = t;
    }
    pep788_unlock(&r->traced_lock);
    return (pep788_word)t | PEP788_TRACED;
}

/* The cell is still to be left. */
PEP788_NOT_INLINE void pep788_untrace(pep788_traced *t)
{
    pep788_record *r = t->cell->record;
    pep788_lock(&r->traced_lock);
    /* Else it is on a list that nobody has any more. */
    if (pep788_is_on_pair(t->cell)) {
        *t->link = t->next;
        if (t->next != NULL) {
            t->next->link = t->link;
        }
    }
    pep788_unlock(&r->traced_lock);
    free(t->block);
}

static inline void pep788_close_guard(pep788_word guard)
{
    pep788_cell *cell = pep788_cell_of(guard);
    if (guard & PEP788_TRACED) {
        pep788_untrace((pep788_traced *)(guard & ~PEP788_TAGS));
    }
    pep788_leave(cell);
}

static inline Pep788_Failure pep788_reason(pep788_record *record)
{
    switch (pep788_load_acquire(&record->status)) {
    case PEP788_NEVER:
        return PEP788_NOT_INITIALIZED;
    case PEP788_ENDED:
        return PEP788_GONE;
    default:
        return PEP788_FINALIZING;
    }
}

/* The thread that finalizes is inside a PyGILState_Ensure of section 9, and would
   wait for itself: its guard goes, and Release closes nothing. */
static inline void pep788_finalizes_here(void)
{
    pep788_word guard = pep788_tls.gil_guard;
    pep788_tls.gil_guard = 0;
    if (guard != 0) {
        pep788_tls.everywhere--;
        pep788_close_guard(guard);
    }
}

/* `cell` was entered, and is to be traced, or NULL. */
PEP788_NOT_INLINE pep788_word pep788_open_guard_slowly(pep788_record *record, pep788_cell *cell)
{
    pep788_word guard;
    if (cell == NULL && pep788_load_acquire(&record->status) == PEP788_LIVE) {
        cell = pep788_enter(record);    /* set up in between, or F9's second phase */
    }
    if (cell == NULL) {
        pep788_tls.failure = pep788_reason(record);
        return 0;
    }
    if (!pep788_load_relaxed(&pep788_shared.trace)) {
        return (pep788_word)cell;
    }
    guard = pep788_trace(cell);
    if (guard == 0) {
        pep788_tls.failure = PEP788_NO_MEMORY;
    }
    return guard;
}

static inline pep788_word pep788_open_guard(pep788_thread *t, pep788_record *record)
{
    pep788_cell *cell = pep788_enter_at(record, pep788_shard_of(t));
    if (cell == NULL || pep788_load_relaxed(&pep788_shared.trace) != 0) {
        return pep788_open_guard_slowly(record, cell);
    }
    return (pep788_word)cell;
}

PEP788_NOT_INLINE void pep788_rearm(pep788_coordinator *c);

static inline void pep788_look_after_seam(pep788_record *record)
{
    pep788_coordinator *c = PEP788_PTR(pep788_coordinator, record->coordinator);
    if (pep788_load_relaxed(&c->seam) == PEP788_SEAM_NONE) {
        pep788_rearm(c);
    }
}

static inline pep788_record *pep788_find(PyInterpreterState *interp);

/* A thread state for the calling thread, not attached; NULL: no memory. */
static inline PyThreadState *pep788_new_state(PyInterpreterState *interp)
{
    PyThreadState *fresh;
    if (!pep788_new_state_is_unsafe() || pep788_shared.prealloc_311 == NULL
        || pep788_shared.set_current_311 == NULL) {
        return PyThreadState_New(interp);
    }
    fresh = pep788_shared.prealloc_311(interp);
    if (fresh != NULL) {
        pep788_shared.set_current_311(fresh);
    }
    return fresh;
}

/* Ensure that leaves a frame: a state of another interpreter is attached, or
   detached but bound as the gilstate. */
static inline void *pep788_attach_framed(pep788_word guard, PyInterpreterState *interp,
                                         PyThreadState *previous)
{
    pep788_frame *f = (pep788_frame *)malloc(sizeof(*f));
    PyThreadState *bound = PyGILState_GetThisThreadState();
    int old = !pep788_current_is_thread_local();
    if (f == NULL) {
        return NULL;
    }
    f->guard = guard;
    f->previous = previous;
    f->bound = bound;
    f->bound_record = NULL;
    f->rebound = 0;
    if (!old && previous == NULL) {
        f->bound_record = pep788_find(pep788_interp_of(bound));
        f->bound_id = f->bound_record == NULL ? 0 : f->bound_record->id;
    }
    f->fresh = !(old && bound != NULL && pep788_interp_of(bound) == interp);
    if (!f->fresh) {
        /* 3.9-3.11 debug builds abort on a second state of this interpreter,
           and release builds would deadlock in a nested PyGILState_Ensure. */
        f->attached = bound;
    }
    else {
        f->attached = pep788_new_state(interp);
        if (f->attached == NULL) {
            free(f);
            return NULL;
        }
        if (old && bound != NULL) {
            f->rebound = pep788_bind_gilstate(f->attached);
        }
    }
    if (previous != NULL) {
        (void)PyThreadState_Swap(f->attached);
    }
    else {
        PyEval_RestoreThread(f->attached);
    }
    if (f->rebound) {
        /* Only a state bound at creation counts itself as used; without this a
           nested PyGILState_Release would delete it. */
        (void)PyGILState_Ensure();
    }
    f->next = pep788_tls.frames;
    pep788_tls.frames = f;
    return previous != NULL ? (void *)previous
                            : (void *)(guard | PEP788_FRESH | PEP788_FRAMED);
}

/* Not attached to the target, and not without any state (bound: the gilstate). */
PEP788_NOT_INLINE void *pep788_attach_slowly(pep788_word guard, PyThreadState *current,
                                             PyThreadState *bound)
{
    PyInterpreterState *interp = PEP788_PTR(PyInterpreterState,
                                            pep788_cell_of(guard)->record->interp);
    if (current != NULL || pep788_interp_of(bound) != interp) {
        return pep788_attach_framed(guard, interp, current);
    }
    PyEval_RestoreThread(bound);
    return (void *)(guard | PEP788_REATTACHED);
}

static inline void *pep788_attach_fresh(pep788_thread *t, pep788_word guard,
                                        pep788_record *record)
{
    t->fresh = pep788_new_state(PEP788_PTR(PyInterpreterState, record->interp));
    if (t->fresh == NULL) {
        return NULL;
    }
    PyEval_RestoreThread(t->fresh);
    return (void *)(guard | PEP788_FRESH);
}

/* A guard that leaked: finalization gave up on it, or it is of before a fork.
   N2: refuse what would attach to nothing. */
static inline int pep788_has_leaked(pep788_record *record)
{
    pep788_word status = pep788_load_acquire(&record->status);
    return status == PEP788_ENDING || status == PEP788_ENDED
           || PEP788_PTR(PyInterpreterState, record->interp) == NULL;
}

/* guard with PEP788_OWNS or without; NULL, with a reason: nothing changed. */
static inline void *pep788_attach(pep788_thread *t, pep788_word guard)
{
    pep788_record *record = pep788_cell_of(guard)->record;
    PyThreadState *bound, *current = pep788_current();
    void *token;
    if (current != NULL
        && pep788_interp_of(current) == PEP788_PTR(PyInterpreterState, record->interp)) {
        ++*pep788_counter(t, guard);
        return (void *)(guard | PEP788_NESTED);
    }
    if (pep788_has_leaked(record)) {
        t->failure = pep788_reason(record);
        return NULL;
    }
    bound = NULL;
    if (current == NULL) {      /* a guard of another copy does not say that this one is set up */
        bound = record->ops == &pep788_shared.ops ? pep788_bound()
                                                  : PyGILState_GetThisThreadState();
    }
    token = current == NULL && bound == NULL ? pep788_attach_fresh(t, guard, record)
                                             : pep788_attach_slowly(guard, current, bound);
    if (token == NULL) {
        t->failure = PEP788_NO_MEMORY;
        return NULL;
    }
    ++*pep788_counter(t, guard);
    pep788_look_after_seam(record);
    return token;
}

/* Deletes the attached state and detaches. Its destructors run while the guard
   is open and the depth counted, so they may Ensure again (gh-119585). */
static inline void pep788_delete_attached(PyThreadState *tstate)
{
    PyThreadState_Clear(tstate);
#ifdef Py_LIMITED_API
    (void)PyEval_SaveThread();       /* PyThreadState_DeleteCurrent: not declared */
    PyThreadState_Delete(tstate);
#else
    PyThreadState_DeleteCurrent();
#endif
}

static inline pep788_word pep788_detach_framed(void *token)
{
    pep788_frame *f = pep788_tls.frames;
    pep788_word guard;
    if (f == NULL
        || (f->previous != NULL ? (void *)f->previous
                                : (void *)(f->guard | PEP788_FRESH | PEP788_FRAMED)) != token) {
        Py_FatalError("PyThreadState_Release: not the token of the last PyThreadState_Ensure "
                      "on this thread; release tokens in reverse order");
    }
    if (f->fresh) {
        PyThreadState_Clear(f->attached);
    }
    if (f->rebound) {
        (void)pep788_bind_gilstate(f->bound);
    }
    if (f->previous != NULL) {
        (void)PyThreadState_Swap(f->previous);
    }
    else {
        (void)PyEval_SaveThread();
    }
    if (f->fresh) {
        PyThreadState_Delete(f->attached);
    }
    if (f->bound_record != NULL) {
        /* 3.12+ bind whatever was attached last and nothing after a deletion
           (E6), so the older state is attached for a moment, if its interpreter
           is certain to be there. */
        pep788_cell *cell = pep788_enter(f->bound_record);
        if (cell != NULL) {
            if (f->bound_record->id == f->bound_id) {
                PyEval_RestoreThread(f->bound);
                (void)PyEval_SaveThread();
            }
            pep788_leave(cell);
        }
    }
    guard = f->guard;
    pep788_tls.frames = f->next;
    free(f);
    return guard;
}

static inline int pep788_release_elsewhere(void *token);
static inline void pep788_rest(pep788_home *home);
static inline void pep788_detach_light(pep788_word token);

PEP788_NOT_INLINE void pep788_detach_slowly(pep788_thread *t, void *token)
{
    pep788_word guard = (pep788_word)token;
    /* E4's token is a thread state; on 32-bit systems its bits from the third on
       may be any. */
    int framed = t->frames != NULL && (void *)t->frames->previous == token;
    int tagged = !framed
                 && (guard & (PEP788_NESTED | PEP788_REATTACHED | PEP788_FRESH)) != 0
                 && !(guard & PEP788_FRAMED);
    if (token == NULL) {
        Py_FatalError("PyThreadState_Release: NULL token; test what PyThreadState_Ensure returns");
    }
    if (!framed && (guard & PEP788_TAGS) == PEP788_KEPT) {
        pep788_detach_light(guard);
        return;
    }
    if ((tagged ? *pep788_counter(t, guard) : pep788_ensures()) == 0) {
        t->fresh = NULL;    /* that copy may be about to delete it */
        if (pep788_release_elsewhere(token)) {
            return;
        }
        Py_FatalError("PyThreadState_Release: called more often than PyThreadState_Ensure "
                      "on this thread");
    }
    if (!tagged) {
        guard = pep788_detach_framed(token);
    }
    else if (guard & PEP788_NESTED) {
        /* nothing to undo */
    }
    else if ((guard & PEP788_KEPT) == PEP788_KEPT) {
        pep788_rest(&pep788_cell_of(guard)->record->home);
    }
    else if (guard & PEP788_REATTACHED) {
        (void)PyEval_SaveThread();
    }
    else {
        pep788_delete_attached(PyThreadState_Get());
        t->fresh = NULL;
    }
    --*pep788_counter(t, guard);
    /* Last: from here on finalization may go on, and Py_EndInterpreter is fatal
       on a leftover thread state up to 3.13. */
    if (guard & PEP788_OWNS) {
        pep788_close_guard(guard & (~PEP788_TAGS | PEP788_TRACED));
    }
}

static inline void pep788_detach(void *token)
{
    pep788_thread *t = pep788_this_thread();
    pep788_word guard = (pep788_word)token;
    if ((guard & (PEP788_NESTED | PEP788_OWNS)) == PEP788_NESTED) {
        unsigned *counter = pep788_counter(t, guard);
        if (*counter != 0) {
            --*counter;
            return;
        }
    }
    else if ((guard & (PEP788_TAGS & ~PEP788_OWNS)) == PEP788_FRESH && t->frames == NULL) {
        unsigned *counter = pep788_counter(t, guard);
        PyThreadState *fresh = t->fresh;
        if (*counter != 0 && fresh != NULL && pep788_is_active(fresh)) {
            pep788_delete_attached(fresh);
            t->fresh = NULL;
            --*counter;
            if (guard & PEP788_OWNS) {
                pep788_leave((pep788_cell *)(guard & ~PEP788_TAGS));
            }
            return;
        }
    }
    pep788_detach_slowly(t, token);
}

#endif /* !PEP788_NATIVE */

/* -- kept thread states (F6) --

   An entry for each thread and interpreter. Detached, it is not the thread's
   gilstate either: the seam may delete it from another thread, and a gilstate
   that dangles is written to by the next attach of its thread (3.12+). Only the
   owner uses it, light or BUSY with a guard open, so the seam, which comes when
   none is, finds such only after it gave up, and leaves those alone. Whoever gets
   it from IDLE deletes the state. The owner frees the entry, or if it exits
   (orphan) before the state is deleted, the one who does. */
#if PEP788_KEEPS
typedef struct {
    pep788_kept *first;
#if PEP788_GILSTATE_IS_TLS
    void **slot;                 /* where this thread's gilstate is */
#endif
} pep788_kept_thread;

typedef struct {
#if PEP788_GILSTATE_IS_TLS
    pep788_word slot;            /* atomic: 0 not looked for, 1 not found, else offset + 2 */
#endif
    pep788_word exits;           /* atomic: 0 no key, 1 none to be had, else key + 2 */
    pep788_word lock;            /* atomic: making that key, and homes */
    pep788_word fence;           /* atomic: of new entries; 0: not decided */
#if PEP788_NATIVE
    pep788_word homes;           /* atomic: pep788_home *, only ever grows in front */
    pep788_word guard_interp;    /* atomic: 0 not looked for, 1 not found, else the function */
#endif
} pep788_kept_copy;

PEP788_C_BEGIN
PEP788_ONE_COPY pep788_kept_copy pep788_kept_shared = PEP788_ZERO;
PEP788_ONE_COPY PEP788_THREAD pep788_kept_thread pep788_kept_tls = PEP788_ZERO;
PEP788_C_END

#if PEP788_GILSTATE_IS_TLS
typedef struct {                 /* struct dl_phdr_info; glibc hides it without _GNU_SOURCE */
    uintptr_t base;
    const char *name;
    const ElfW(Phdr) *headers;
    ElfW(Half) count;
    unsigned long long adds, subs;
    size_t tls_module;
    void *tls;                   /* this thread's block, or NULL */
} pep788_object;

typedef struct {
    uintptr_t inside;
    char *block;
    size_t size;
} pep788_block;

/* Finds the thread-local block of the object that has an address inside. */
PEP788_C_BEGIN
static inline int pep788_tls_block(pep788_object *o, size_t size, void *wanted)
{
    pep788_block *b = (pep788_block *)wanted;
    size_t i, tls = 0;
    int found = 0;
    if (size < sizeof(*o)) {
        return 0;
    }
    for (i = 0; i < o->count; i++) {
        if (o->headers[i].p_type == PT_LOAD) {
            found |= b->inside - (o->base + o->headers[i].p_vaddr) < o->headers[i].p_memsz;
        }
        if (o->headers[i].p_type == PT_TLS) {
            tls = o->headers[i].p_memsz;
        }
    }
    if (found && o->tls != NULL) {
        b->block = (char *)o->tls;
        b->size = tls;
    }
    return found;
}
PEP788_C_END

/* `bound` is attached and this thread's gilstate. 1 if that can be written. */
static inline int pep788_find_slot(PyThreadState *bound)
{
    pep788_word known = pep788_load_acquire(&pep788_kept_shared.slot);
    int (*iterate)(int (*)(pep788_object *, size_t, void *), void *) = NULL;
    void *found = pep788_kept_tls.slot == NULL ? dlsym(NULL, "dl_iterate_phdr") : NULL;
    pep788_block b = {0, NULL, 0};
    size_t at;
    if (pep788_kept_tls.slot != NULL) {
        return 1;
    }
    memcpy(&iterate, &found, sizeof(found));
    if (known == 1 || iterate == NULL) {
        return 0;
    }
    /* The type, not its name: a program may have a copy of the name (and a stub
       for each function), the type itself is in the interpreter. */
    b.inside = (uintptr_t)PyExc_SystemError;
    (void)iterate(pep788_tls_block, &b);
    for (at = known == 0 ? 0 : known - 2; at + sizeof(void *) <= b.size; at += sizeof(void *)) {
        void **word = (void **)(void *)(b.block + at);
        char probe;
        int same;
        if (*word == (void *)bound) {
            *word = &probe;
            same = (void *)PyGILState_GetThisThreadState() == (void *)&probe;
            *word = bound;
            if (same) {
                pep788_kept_tls.slot = word;
                pep788_store_release(&pep788_kept_shared.slot, (pep788_word)at + 2);
                return 1;
            }
        }
        if (known != 0) {
            return 0;
        }
    }
    pep788_store_release(&pep788_kept_shared.slot, (pep788_word)1);
    return 0;
}

static inline void pep788_set_gilstate(PyThreadState *tstate)
{
    *pep788_kept_tls.slot = tstate;
}

/* 1: find_slot has said 1 on this thread, and the gilstate is NULL. */
static inline int pep788_is_unbound(void)
{
    return pep788_kept_tls.slot != NULL && *pep788_kept_tls.slot == NULL;
}
#else
/* `bound` is attached and this thread's gilstate. 1 if that can be written. */
static inline int pep788_find_slot(PyThreadState *bound)
{
    (void)bound;
    pep788_find_gilstate_key(0);    /* in the child of a fork, perhaps */
    return pep788_load_acquire(&pep788_shared.gilstate_key) > 1;
}

static inline void pep788_set_gilstate(PyThreadState *tstate)
{
    pep788_word key = pep788_load_acquire(&pep788_shared.gilstate_key);
    (void)pthread_setspecific((pthread_key_t)(key - 2), tstate);
}

/* 1: find_slot would say 1, and the gilstate is NULL. */
static inline int pep788_is_unbound(void)
{
    pep788_word key = pep788_load_acquire(&pep788_shared.gilstate_key);
    return key > 1 && pthread_getspecific((pthread_key_t)(key - 2)) == NULL;
}
#endif

static inline pep788_kept *pep788_find_kept(pep788_home *home)
{
    pep788_kept *k = pep788_kept_tls.first;
    while (k != NULL && k->home != home) {
        k = k->next;
    }
    return k;
}

static inline void pep788_link_kept(pep788_kept *k)
{
    pep788_home *home = k->home;
    pep788_lock(&home->lock);
    k->after = home->first;
    k->link = &home->first;
    if (k->after != NULL) {
        k->after->link = &k->after;
    }
    home->first = k;
    pep788_unlock(&home->lock);
}

static inline void pep788_unlink_kept_locked(pep788_kept *k)
{
    *k->link = k->after;
    if (k->after != NULL) {
        k->after->link = k->link;
    }
}

static inline void pep788_unlink_kept(pep788_kept *k)
{
    pep788_lock(&k->home->lock);
    pep788_unlink_kept_locked(k);
    pep788_unlock(&k->home->lock);
}

static inline void pep788_free_kept(pep788_kept *k)
{
    pep788_kept **link = &pep788_kept_tls.first;
    while (*link != NULL && *link != k) {
        link = &(*link)->next;
    }
    if (*link == k) {
        *link = k->next;
    }
    pep788_lock(&k->home->lock);     /* who made it GONE has let go of it */
    pep788_unlock(&k->home->lock);
    free(k->block);
}

/* Detached afterwards; the gilstate is as it was. A guard is open. */
static inline void pep788_delete_kept(pep788_kept *k)
{
    PyThreadState *bound = PyGILState_GetThisThreadState();
    /* 3.12+: so that the attach leaves the bit of `bound` alone. */
    pep788_set_gilstate(pep788_attach_binds() ? NULL : k->tstate);
    PyEval_RestoreThread(k->tstate);
    PyThreadState_Clear(k->tstate);
    PyThreadState_DeleteCurrent();
    pep788_set_gilstate(bound);
}

#if !PEP788_NATIVE
static inline pep788_record *pep788_record_of(pep788_home *home)
{
    return (pep788_record *)(void *)((char *)home - offsetof(pep788_record, home));
}
#endif

static inline pep788_word pep788_enter_home(pep788_home *home);
static inline void pep788_leave_home(pep788_home *home, pep788_word guard);
static inline int pep788_is_attached(void);
static inline int pep788_is_ending(pep788_home *home);

/* Destructor of a thread-specific key. */
PEP788_C_BEGIN
static inline void pep788_thread_exits(void *unused)
{
    pep788_kept *k;
    (void)unused;
    while ((k = pep788_kept_tls.first) != NULL) {
        pep788_home *home = k->home;
        pep788_word idle = PEP788_KEPT_IDLE;
        pep788_word guard = pep788_is_attached() ? 0 : pep788_enter_home(home);
        int done = guard != 0 && pep788_load_relaxed(&k->light) == 0
                   && pep788_cas_seq_cst(&k->state, &idle, PEP788_KEPT_BUSY);
        pep788_kept_tls.first = k->next;
        if (done) {
            pep788_delete_kept(k);
        }
        pep788_lock(&home->lock);
        if (done) {
            pep788_unlink_kept_locked(k);
        }
        else {
            /* Too late, or a token was leaked. */
            done = pep788_load_acquire(&k->state) == PEP788_KEPT_GONE;
            k->orphan = 1;
        }
        pep788_unlock(&home->lock);
        if (done) {
            free(k->block);
        }
        if (guard != 0) {
            pep788_leave_home(home, guard);
        }
    }
}
PEP788_C_END

/* 1 if pep788_thread_exits will be called on this thread. */
static inline int pep788_watch_exit(void)
{
    pep788_word known = pep788_load_acquire(&pep788_kept_shared.exits);
    if (known == 0) {
        pep788_lock(&pep788_kept_shared.lock);
        known = pep788_load_acquire(&pep788_kept_shared.exits);
        if (known == 0) {
            pthread_key_t key;
            known = pthread_key_create(&key, pep788_thread_exits) == 0 ? (pep788_word)key + 2 : 1;
            pep788_store_release(&pep788_kept_shared.exits, known);
        }
        pep788_unlock(&pep788_kept_shared.lock);
    }
    return known != 1
           && pthread_setspecific((pthread_key_t)(known - 2), &pep788_kept_shared) == 0;
}

/* `fresh` was made for this thread, is attached and its gilstate. Its entry, BUSY,
   or NULL if it is not kept. */
static inline pep788_kept *pep788_keep(pep788_home *home, PyThreadState *fresh)
{
    pep788_kept *k, *next;
    void *block;
    for (k = pep788_kept_tls.first; k != NULL; k = next) {
        next = k->next;
        if (pep788_load_acquire(&k->state) == PEP788_KEPT_GONE
            && pep788_load_relaxed(&k->light) == 0) {
            pep788_free_kept(k);
        }
    }
    if (!pep788_find_slot(fresh) || !pep788_watch_exit()
        || pep788_wants_one_state(PyThreadState_GetInterpreter(fresh))) {
        return NULL;
    }
    block = malloc(sizeof(*k) + PEP788_LINE);
    if (block == NULL) {
        return NULL;
    }
    k = (pep788_kept *)(((uintptr_t)block + PEP788_LINE - 1) & ~(uintptr_t)(PEP788_LINE - 1));
    memset(k, 0, sizeof(*k));
    k->block = block;
    k->state = PEP788_KEPT_BUSY;
    k->tstate = fresh;
    k->id = fresh->id;
    k->home = home;
#if !PEP788_NATIVE
    k->inside = &pep788_tls.inside[pep788_record_of(home)->bucket];
    k->fence = pep788_load_relaxed(&pep788_shared.trace)
                   ? PEP788_NEVER_LIGHT : pep788_load_acquire(&pep788_kept_shared.fence);
#endif
    k->next = pep788_kept_tls.first;
    pep788_kept_tls.first = k;
    pep788_link_kept(k);
    return k;
}

/* 1 if the state, which is attached, cannot be kept any longer. */
static inline int pep788_must_go(pep788_kept *k)
{
    return !pep788_find_slot(k->tstate)     /* in the child of a fork, perhaps */
           || pep788_is_ending(k->home)
           || (!k->forked && pep788_is_joined_at_exit(k->tstate));
}

/* Detached, and not the gilstate. NULL: there is none that could be attached. */
static inline void pep788_unbind(pep788_kept *k)
{
    if (PyEval_SaveThread() != (k == NULL ? NULL : k->tstate)) {
        Py_FatalError("Pep788_ReleaseKept: the thread state that Pep788_EnsureKept left is not "
                      "attached; release tokens in reverse order");
    }
    pep788_set_gilstate(NULL);
    pep788_clear_bound_bit(k->tstate);
}

/* Detaches the kept state, which is attached. */
static inline void pep788_rest(pep788_home *home)
{
    pep788_kept *k = pep788_find_kept(home);
    if (k != NULL && pep788_must_go(k)) {
        pep788_unlink_kept(k);
        PyThreadState_Clear(k->tstate);
        PyThreadState_DeleteCurrent();
        pep788_free_kept(k);
        return;
    }
    pep788_unbind(k);
#if PEP788_NATIVE
    {
        pep788_word idle = PEP788_KEPT_IDLE;
        /* Pairs with pep788_native_at_exit: it sees IDLE, or this sees `ending`. */
        pep788_store_seq_cst(&k->state, PEP788_KEPT_IDLE);
        if (pep788_is_ending(home)
            && pep788_cas_seq_cst(&k->state, &idle, PEP788_KEPT_BUSY)) {
            pep788_unlink_kept(k);
            pep788_delete_kept(k);      /* the guard is still open */
            pep788_free_kept(k);
        }
    }
#else
    pep788_store_release(&k->state, PEP788_KEPT_IDLE);
#endif
}

/* 1 if the current interpreter still has that state, and it is not attached. */
static inline int pep788_is_there(PyThreadState *tstate, uint64_t id)
{
    PyThreadState *it = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    while (it != NULL && (it != tstate || it->id != id)) {
        it = PyThreadState_Next(it);
    }
    return it != NULL && it != PyThreadState_Get();
}

/* Deletes what is IDLE; attached to that interpreter, on any thread. No Python
   call if PEP788_FORGET. */
static inline void pep788_drop_kept(pep788_home *home, int how)
{
    PyThreadState *tstate;
    do {
        pep788_kept *k;
        uint64_t id = 0;
        int orphan = 0;
        tstate = NULL;
        pep788_lock(&home->lock);
        for (k = home->first; k != NULL; k = k->after) {
            pep788_word idle = PEP788_KEPT_IDLE;
            if (how == PEP788_FORGET
                || (pep788_load_acquire(&k->light) == 0
                    && pep788_cas_seq_cst(&k->state, &idle, PEP788_KEPT_GONE))) {
                pep788_unlink_kept_locked(k);
                pep788_store_release(&k->state, PEP788_KEPT_GONE);
                tstate = k->tstate;
                id = k->id;
                orphan = k->orphan;
                break;
            }
        }
        pep788_unlock(&home->lock);
        if (orphan) {
            free(k->block);
        }
        /* No lock held: this runs destructors. */
        if (tstate != NULL && (how == PEP788_DROP || (how == PEP788_DROP_THOSE_LEFT
                                                      && pep788_is_there(tstate, id)))) {
            PyThreadState_Clear(tstate);
            PyThreadState_Delete(tstate);
        }
    } while (tstate != NULL);
}

/* In the child of a fork CPython deletes all states but the attached one. Entries
   of threads that are not there are leaked. */
static inline void pep788_kept_in_child(pep788_home *home)
{
    pep788_kept *k;
#if PEP788_NATIVE
    home->lock = 0;
#endif
    home->first = NULL;
    pep788_kept_shared.lock = 0;
    for (k = pep788_kept_tls.first; k != NULL; k = k->next) {
        if (k->home == home && k->state != PEP788_KEPT_GONE) {
            if (k->state == PEP788_KEPT_IDLE && k->light == 0) {
                k->state = PEP788_KEPT_GONE;
            }
            else {
                k->state = PEP788_KEPT_BUSY;
                k->light = k->guard = 0;    /* what the parent waits for (F1) */
                k->forked = 1;      /* to threading it is the main thread now */
                pep788_link_kept(k);
            }
        }
    }
}
#else
static inline void pep788_rest(pep788_home *home) { (void)home; }
static inline void pep788_detach_light(pep788_word token) { (void)token; }
static inline void pep788_drop_kept(pep788_home *home, int how) { (void)home; (void)how; }
static inline void pep788_choose_fence(int early) { (void)early; }
static inline void pep788_kept_in_child(pep788_home *home) { (void)home; }
#endif /* PEP788_KEEPS */

#if PEP788_NATIVE && PEP788_KEEPS
/* Native guards have no seam. Kept states go in an atexit callback: from then on
   what is BUSY is deleted by its Release, and nothing is kept. Where that was
   taken away (atexit._clear), CPython deletes idle states when the interpreter
   ends; a capsule in its dict tells us that they are gone. */
static inline pep788_word pep788_enter_home(pep788_home *home)
{
    PyInterpreterGuard *guard = NULL;
    pep788_lock(&home->lock);
    if (pep788_load_acquire(&home->interp) != 0) {
        guard = PyInterpreterGuard_FromView(home->view);
    }
    pep788_unlock(&home->lock);
    return (pep788_word)guard;
}

static inline void pep788_leave_home(pep788_home *home, pep788_word guard)
{
    (void)home;
    PyInterpreterGuard_Close((PyInterpreterGuard *)guard);
}

static inline int pep788_is_attached(void)
{
    return PyThreadState_GetUnchecked() != NULL;
}

static inline int pep788_is_ending(pep788_home *home)
{
    return pep788_load_seq_cst(&home->ending) != 0;
}

#define PEP788_HOME "pep788.home"

PEP788_C_BEGIN
static inline PyObject *pep788_native_at_exit(PyObject *self, PyObject *unused)
{
    pep788_home *home = (pep788_home *)PyCapsule_GetPointer(self, PEP788_HOME);
    (void)unused;
    pep788_store_seq_cst(&home->ending, (pep788_word)1);
    pep788_drop_kept(home, PEP788_DROP);
    Py_INCREF(Py_None);
    return Py_None;
}

/* The interpreter's dict goes: its thread states have gone. */
static inline void pep788_home_destroyed(PyObject *capsule)
{
    pep788_home *home = (pep788_home *)PyCapsule_GetPointer(capsule, PEP788_HOME);
    PyInterpreterView *view;
    pep788_drop_kept(home, PEP788_FORGET);
    pep788_lock(&home->lock);
    view = home->view;
    home->view = NULL;
    pep788_store_release(&home->interp, (pep788_word)0);
    pep788_unlock(&home->lock);
    PyInterpreterView_Close(view);
}

static inline void pep788_native_in_child(void)
{
    pep788_home *home = PEP788_PTR(pep788_home, pep788_kept_shared.homes);
    for (; home != NULL; home = home->next) {
        pep788_kept_in_child(home);
    }
}
PEP788_C_END

static inline pep788_home *pep788_home_of(PyInterpreterState *interp)
{
    pep788_home *home = PEP788_PTR(pep788_home, pep788_kept_shared.homes);
    while (home != NULL && pep788_load_acquire(&home->interp) != (pep788_word)interp) {
        home = home->next;
    }
    return home;
}

/* kept_shared.lock held. */
static inline pep788_home *pep788_free_home_locked(void)
{
    pep788_home *home = pep788_home_of(NULL);
    if (home == NULL) {
        home = (pep788_home *)calloc(1, sizeof(*home));
        if (home != NULL) {
            home->next = PEP788_PTR(pep788_home, pep788_kept_shared.homes);
            if (home->next == NULL) {
                (void)pthread_atfork(NULL, NULL, pep788_native_in_child);
            }
            pep788_store_release(&pep788_kept_shared.homes, (pep788_word)home);
        }
    }
    return home;
}

/* Attached. The current interpreter's home, NULL without exception if it cannot
   have one. */
static inline pep788_home *pep788_settle(void)
{
    static PyMethodDef method = {"pep788_kept", pep788_native_at_exit, METH_NOARGS,
                                 "Deletes kept thread states."};
    PyInterpreterState *interp = PyInterpreterState_Get();
    PyObject *dict = PyInterpreterState_GetDict(interp);     /* borrowed */
    PyObject *key, *last, *first;
    PyInterpreterView *view;
    pep788_home *home = pep788_home_of(interp);
    if (home != NULL || dict == NULL) {
        return home;
    }
    view = PyInterpreterView_FromCurrent();
    if (view != NULL) {
        pep788_lock(&pep788_kept_shared.lock);
        if (pep788_home_of(interp) == NULL && (home = pep788_free_home_locked()) != NULL) {
            home->view = view;
            pep788_store_seq_cst(&home->ending, (pep788_word)0);
            pep788_store_release(&home->interp, (pep788_word)interp);
        }
        pep788_unlock(&pep788_kept_shared.lock);
    }
    if (home == NULL) {     /* or another thread was faster */
        if (view != NULL) {
            PyInterpreterView_Close(view);
        }
        PyErr_Clear();
        return pep788_home_of(interp);
    }
    key = PyUnicode_FromFormat("%s %p", PEP788_HOME, (void *)home);
    last = PyCapsule_New(home, PEP788_HOME, pep788_home_destroyed);
    first = PyCapsule_New(home, PEP788_HOME, NULL);
    if (key == NULL || last == NULL || first == NULL || PyDict_SetItem(dict, key, last) < 0
        || pep788_call_at_exit(&method, first) < 0) {
        PyErr_Clear();
        pep788_store_seq_cst(&home->ending, (pep788_word)1);
        pep788_drop_kept(home, PEP788_DROP);    /* another thread's, meanwhile */
    }
    Py_XDECREF(first);
    Py_XDECREF(last);       /* if it is not in the dict, the home is given up */
    Py_XDECREF(key);
    return home;
}

/* 3.15 exports it, as a private function. */
static inline PyInterpreterState *pep788_guard_interp(PyInterpreterGuard *guard)
{
    PyInterpreterState *(*function)(PyInterpreterGuard *) = NULL;
    pep788_word known = pep788_load_acquire(&pep788_kept_shared.guard_interp);
    void *found = (void *)known;
    if (known == 0) {
        found = dlsym(NULL, "_PyInterpreterGuard_GetInterpreter");
        known = found == NULL ? 1 : (pep788_word)found;
        pep788_store_release(&pep788_kept_shared.guard_interp, known);
    }
    if (known == 1) {
        return NULL;
    }
    memcpy(&function, &found, sizeof(found));
    return function(guard);
}

/* NULL: nothing can be kept, and nothing has changed. Not attached, no gilstate. */
static inline pep788_kept *pep788_native_attach_kept(PyInterpreterGuard *guard)
{
    PyInterpreterState *interp = pep788_guard_interp(guard);
    pep788_kept *k = pep788_kept_tls.first;
    pep788_word idle = PEP788_KEPT_IDLE;
    pep788_home *home;
    PyThreadState *fresh;
    if (interp == NULL || pep788_load_acquire(&pep788_kept_shared.slot) == 1) {
        return NULL;
    }
    while (k != NULL && (pep788_load_acquire(&k->home->interp) != (pep788_word)interp
                         || pep788_load_acquire(&k->state) == PEP788_KEPT_GONE)) {
        k = k->next;
    }
    if (k != NULL) {
        if (!pep788_is_unbound() || !pep788_cas_seq_cst(&k->state, &idle, PEP788_KEPT_BUSY)) {
            return NULL;
        }
        PyEval_RestoreThread(k->tstate);
        return k;
    }
    home = pep788_home_of(interp);
    if ((home != NULL && pep788_is_ending(home)) || (fresh = PyThreadState_New(interp)) == NULL) {
        return NULL;
    }
    PyEval_RestoreThread(fresh);
    home = pep788_settle();
    k = home == NULL || pep788_is_ending(home) ? NULL : pep788_keep(home, fresh);
    if (k == NULL) {
        PyThreadState_Clear(fresh);
        PyThreadState_DeleteCurrent();
    }
    return k;
}

static inline PyThreadStateToken *pep788_native_ensure_kept(PyInterpreterView *view)
{
    pep788_kept *k = NULL;
    if (PyThreadState_GetUnchecked() == NULL && PyGILState_GetThisThreadState() == NULL) {
        PyInterpreterGuard *guard = PyInterpreterGuard_FromView(view);
        if (guard == NULL) {
            return NULL;
        }
        k = pep788_native_attach_kept(guard);
        if (k != NULL) {
            k->native = guard;
            return (PyThreadStateToken *)(void *)k;
        }
        PyInterpreterGuard_Close(guard);
    }
    return PyThreadState_EnsureFromView(view);
}

static inline void pep788_native_release_kept(PyThreadStateToken *token)
{
    pep788_kept *k = pep788_kept_tls.first;
    PyInterpreterGuard *guard;
    while (k != NULL && (void *)k != (void *)token) {
        k = k->next;
    }
    if (k == NULL) {
        PyThreadState_Release(token);
        return;
    }
    if (pep788_load_acquire(&k->state) != PEP788_KEPT_BUSY) {
        Py_FatalError("Pep788_ReleaseKept: called more often than Pep788_EnsureKept");
    }
    guard = k->native;
    pep788_rest(k->home);
    PyInterpreterGuard_Close(guard);
}
#endif

#if !PEP788_NATIVE
#if PEP788_KEEPS
static inline int pep788_is_attached(void)
{
    return pep788_current() != NULL;
}

/* Ours waits for guards at the seam, which comes after this. */
static inline int pep788_is_ending(pep788_home *home)
{
    (void)home;
    return 0;
}

/* The depth: destructors may Ensure while finalization waits. */
static inline pep788_word pep788_enter_home(pep788_home *home)
{
    pep788_cell *cell = pep788_enter(pep788_record_of(home));
    pep788_tls.everywhere += cell != NULL;
    return (pep788_word)cell;
}

static inline void pep788_leave_home(pep788_home *home, pep788_word guard)
{
    (void)home;
    pep788_tls.everywhere--;
    pep788_leave((pep788_cell *)guard);
}

/* Linux: registers the process with membarrier: 3 us if it has a single thread, else
   10 to 15 ms, once. `early`: in the first case only. Not attached, or early. */
static inline void pep788_choose_fence(int early)
{
    if (pep788_load_acquire(&pep788_kept_shared.fence) == 0) {
        /* glibc 2.32; elsewhere nothing tells. */
        const char *single = early ? (const char *)pep788_symbol("__libc_single_threaded") : NULL;
        if (early && (single == NULL || *single == 0)) {
            return;
        }
        pep788_store_release(&pep788_kept_shared.fence,
                             pep788_call_membarrier(PEP788_REGISTER_EXPEDITED) == 0
                                 ? PEP788_MEMBARRIER : PEP788_FENCED);
    }
}

/* Nothing fits: as pep788_attach, but a fresh state is kept. */
static inline void *pep788_attach_and_keep(pep788_thread *t, pep788_word guard,
                                           pep788_record *record)
{
    pep788_kept *k = pep788_find_kept(&record->home);
    PyThreadState *fresh;
    if (PyGILState_GetThisThreadState() != NULL || pep788_current() != NULL
        || (k != NULL && pep788_load_acquire(&k->state) != PEP788_KEPT_GONE)) {
        return pep788_attach(t, guard);
    }
    fresh = pep788_new_state(PEP788_PTR(PyInterpreterState, record->interp));
    if (fresh == NULL) {
        pep788_tls.failure = PEP788_NO_MEMORY;
        return NULL;
    }
    pep788_choose_fence(0);
    PyEval_RestoreThread(fresh);
    ++*pep788_counter(t, guard);
    pep788_look_after_seam(record);
    return (void *)(guard | (pep788_keep(&record->home, fresh) != NULL ? PEP788_KEPT
                                                                     : PEP788_FRESH));
}

/* The entry that this thread may attach, if it is idle; NULL: none fits. */
static inline pep788_kept *pep788_fitting(pep788_record *record)
{
    pep788_kept *k = pep788_find_kept(&record->home);
    if (k == NULL || !pep788_is_unbound()
        || (!pep788_current_is_thread_local() && pep788_current() != NULL)) {
        return NULL;
    }
    return k;
}

/* It is this thread's now: attached, and the gilstate. */
static inline void pep788_bind(pep788_kept *k)
{
    if (!pep788_attach_binds()) {
        pep788_set_gilstate(k->tstate);
    }
    PyEval_RestoreThread(k->tstate);
}

/* As pep788_attach; guard with PEP788_OWNS. */
static inline void *pep788_attach_kept(pep788_thread *t, pep788_word guard,
                                       pep788_record *record)
{
    pep788_kept *k = pep788_fitting(record);
    pep788_word state = PEP788_KEPT_IDLE;
    if (k == NULL || !pep788_cas_seq_cst(&k->state, &state, PEP788_KEPT_BUSY)) {
        return pep788_attach_and_keep(t, guard, record);
    }
    pep788_bind(k);
    ++*pep788_counter(t, guard);
    pep788_look_after_seam(record);
    return (void *)(guard | PEP788_KEPT);
}

/* NULL: what is kept, if anything, does not fit, or a guard is needed. */
static inline void *pep788_attach_light(pep788_record *record)
{
    pep788_kept *k = pep788_fitting(record);
    if (k == NULL || !pep788_light_on(record, k)) {
        return NULL;
    }
    pep788_bind(k);
    ++*k->inside;
    pep788_look_after_seam(record);
    return (void *)((pep788_word)k | PEP788_KEPT);
}

/* The state is deleted, or it came through a fork. */
PEP788_NOT_INLINE void pep788_detach_light_slowly(pep788_kept *k)
{
    pep788_record *record = pep788_record_of(k->home);
    unsigned *inside = k->inside;
    if (pep788_load_relaxed(&k->light) != 0) {
        PyThreadState_Clear(k->tstate);
        PyThreadState_DeleteCurrent();
        pep788_unlink_kept(k);
        pep788_light_off(record, k);
        pep788_free_kept(k);
    }
    else if (k->forked && pep788_load_relaxed(&k->state) == PEP788_KEPT_BUSY) {
        pep788_rest(k->home);
    }
    else {
        Py_FatalError("Pep788_ReleaseKept: called more often than Pep788_EnsureKept");
    }
    --*inside;
}

static inline void pep788_detach_light(pep788_word token)
{
    pep788_kept *k = (pep788_kept *)(token & ~PEP788_TAGS);
    if (pep788_load_relaxed(&k->light) == 0 || pep788_must_go(k)) {
        pep788_detach_light_slowly(k);
        return;
    }
    pep788_unbind(k);
    --*k->inside;
    pep788_light_off(pep788_record_of(k->home), k);
}
#endif /* PEP788_KEEPS */

/* ------------------------------------------------------------------------- */
/* 6  Finalization                                                            */
/*                                                                             */
/*    The seam: our atexit callback, while it runs, registers one more entry,   */
/*    which is never called but whose object is destroyed after every other     */
/*    callback and before the finalizing flag, in Py_FinalizeEx and             */
/*    Py_EndInterpreter alike, on 3.9-3.15. There we wait.                      */
/* ------------------------------------------------------------------------- */

#define PEP788_CAPSULE "pep788.coordinator.1"
#define PEP788_ARMED "pep788.armed.1"
#define PEP788_SEAM "pep788.seam.1"

/* Py_IsInitialized() turns 0 together with the finalizing flag on 3.9-3.15. Attached;
   else, on 3.15, 0 again once the end is over. */
static inline int pep788_too_late(void)
{
    return !Py_IsInitialized() && pep788_may_be_finalizing();
}

/* Helpers that are only compiled when finalization really has to wait. */
static inline PyObject *pep788_tools(void)
{
    static const char source[] =
        "import sys\n"
        "def threads():\n"
        "    t = sys.modules.get('threading')\n"
        "    if t is None: return []\n"
        "    me = t.get_ident()\n"
        "    return [x for x in t.enumerate() if not x.daemon and x.is_alive()\n"
        "            and x.ident != me and x is not t.main_thread()]\n"
        "def callbacks():\n"
        "    a = sys.modules.get('atexit')\n"
        "    return a._ncallbacks() if a is not None else 0\n"
        /* threading._shutdown has joined all there were (and made the main
           thread finished), unless somebody put another in its place. */
        "def snapshot():\n"
        "    t = sys.modules.get('threading')\n"
        "    joined = t is None or not t.main_thread().is_alive()\n"
        "    return [] if joined else threads(), callbacks()\n"
        "def appeared(before):\n"
        "    new = [t for t in threads() if not any(t is b for b in before[0])]\n"
        "    return (new, callbacks() > before[1])\n"
        "def work(new):\n"
        "    for t in new[0]: t.join()\n"
        "    if new[1]: sys.modules['atexit']._run_exitfuncs()\n"
        "def thread_name(ident, native_id):\n"
        "    t = sys.modules.get('threading')\n"
        "    t = t and t._active.get(ident)\n"
        "    if t is not None and type(t).__name__ != '_DummyThread': return t.name\n"
        "    try:\n"
        "        with open('/proc/self/task/%d/comm' % native_id) as f: return f.read().strip()\n"
        "    except OSError: return 'foreign'\n"
        "def flush():\n"
        "    import gc, _io\n"
        "    files = [o for o in gc.get_objects() if issubclass(type(o), _io._IOBase)]\n"
        "    files.sort(key=lambda o: not issubclass(type(o), _io._TextIOBase))\n"
        "    for f in files:\n"
        "        try: f.closed or f.flush()\n"
        "        except BaseException: pass\n";
    PyObject *globals = PyDict_New();
    PyObject *builtins = PyImport_ImportModule("builtins");
    PyObject *code = Py_CompileString(source, "<pep788>", Py_file_input);
    PyObject *result = NULL;
    if (globals != NULL && builtins != NULL && code != NULL
        && PyDict_SetItemString(globals, "__builtins__", builtins) == 0) {
        result = PyEval_EvalCode(code, globals, globals);
    }
    Py_XDECREF(code);
    Py_XDECREF(builtins);
    if (result == NULL) {
        Py_XDECREF(globals);
        pep788_unraisable();
        return NULL;
    }
    Py_DECREF(result);
    return globals;
}

/* A new reference, or NULL with the exception reported. `argument` is borrowed
   and may be NULL. */
static inline PyObject *pep788_call(PyObject *tools, const char *name, PyObject *argument)
{
    PyObject *function = tools == NULL ? NULL : PyDict_GetItemString(tools, name);
    PyObject *result;
    if (function == NULL) {
        return NULL;
    }
    result = PyObject_CallFunctionObjArgs(function, argument, NULL);
    if (result == NULL) {
        pep788_unraisable();
    }
    return result;
}

/* After PyErr_CheckSignals or Py_MakePendingCalls failed. Python's buffers are
   written (F10), then the process ends as on 3.15. A second Ctrl-C kills. */
static inline void pep788_interrupted(PyObject *tools)
{
    if (!PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) {
        pep788_unraisable();
        return;
    }
    pep788_unraisable();
    PySys_WriteStderr("Interrupted while waiting on finalization guards\n");
    (void)signal(SIGINT, SIG_DFL);
    Py_XDECREF(pep788_call(tools, "flush", NULL));
    exit(1);
}

/* Who took the guards that are open on a record; any thread, no Python. */
static inline size_t pep788_takers(pep788_record *r, pep788_taker *some, size_t limit)
{
    size_t n = 0;
    pep788_traced *t;
    pep788_lock(&r->traced_lock);
    for (t = r->traced; t != NULL && n < limit; t = t->next, n++) {
        some[n].thread = t->thread;
        some[n].native_id = t->native_id;
        some[n].age = pep788_now() - t->since;
    }
    pep788_unlock(&r->traced_lock);
    return n;
}

static inline void pep788_report_traced(pep788_record *r, PyObject *tools)
{
    pep788_taker some[16];
    size_t i, n = pep788_takers(r, some, 16);
    for (i = 0; i < n; i++) {
        PyObject *a = PyLong_FromUnsignedLong(some[i].thread);
        PyObject *b = PyLong_FromUnsignedLong(some[i].native_id);
        PyObject *f = tools == NULL ? NULL : PyDict_GetItemString(tools, "thread_name");
        PyObject *name = a == NULL || b == NULL || f == NULL
                             ? NULL : PyObject_CallFunctionObjArgs(f, a, b, NULL);
        PyErr_Clear();
        PySys_FormatStderr("pep788:     taken by thread %R (ident %lu, native id %lu), "
                           "open for %d ms\n", name == NULL ? Py_None : name,
                           some[i].thread, some[i].native_id, (int)(some[i].age * 1000.0));
        Py_XDECREF(name);
        Py_XDECREF(a);
        Py_XDECREF(b);
    }
}

/* Who has guards open; any thread, no Python. `total` counts all, beyond the limit too. */
static inline size_t pep788_holders(pep788_coordinator *first, int all, pep788_holder *some,
                                    size_t limit, size_t *total)
{
    size_t n = 0;
    pep788_coordinator *c;
    pep788_record *r;
    *total = 0;
    pep788_lock_set(first, all);
    PEP788_EACH(c, first, all) {
        for (r = c->records; r != NULL; r = r->next) {
            size_t count = pep788_open_guards(r);
            *total += count;
            if (count != 0 && n < limit) {
                some[n].record = r;
                some[n].count = count;
                some[n].id = (long)c->id;
                n++;
            }
        }
    }
    pep788_unlock_set(first, all);
    return n;
}

/* F4. Names are constants of modules that are never unloaded. */
static inline void pep788_report(pep788_coordinator *first, int all, double waited,
                                 int gave_up, PyObject *tools)
{
    pep788_holder some[64];
    size_t i, total, n = pep788_holders(first, all, some, 64, &total);
    PySys_FormatStderr("pep788: %s after %d.%d s: %zu open interpreter guard%s\n",
                       gave_up ? "gave up waiting" : "finalization is waiting",
                       (int)waited, (int)(waited * 10.0) % 10, total, total == 1 ? "" : "s");
    for (i = 0; i < n; i++) {
        PySys_FormatStderr("pep788:   %zu of module %s, interpreter %ld\n", some[i].count,
                           some[i].record->name, some[i].id);
        pep788_report_traced(some[i].record, tools);
        if (some[i].record->ops->describe != NULL) {
            some[i].record->ops->describe(some[i].record);
        }
    }
    PySys_FormatStderr(
        "pep788: each must be given back: by PyInterpreterGuard_Close, PyThreadState_Release or the "
        "end of a `with pep788.guard()` block.%s%s\n",
        pep788_load_relaxed(&pep788_shared.trace)
            ? "" : " PEP788_TRACE=1 names the threads that took them.",
        gave_up ? "" : " PEP788_GIVE_UP_AFTER=seconds ends the wait.");
}

/* Sleeps detached until something may have changed; bounded, because signals
   do not end the wait for a lock on Windows, and need not on macOS. */
static inline void pep788_sleep(pep788_coordinator *first, int all, double seconds)
{
    PyThreadState *tstate;
    long long us = seconds < 0.1 ? (long long)(seconds * 1e6) + 1000 : 100000;
    if (first->wake == NULL) {
        PyThread_type_lock lock = PyThread_allocate_lock();
        if (lock == NULL) {
            unsigned turns = 256;
            tstate = PyEval_SaveThread();
            PEP788_SPIN(&turns);    /* no memory for a lock: poll */
            PyEval_RestoreThread(tstate);
            return;
        }
        (void)PyThread_acquire_lock(lock, WAIT_LOCK);
        first->wake = lock;
    }
    tstate = PyEval_SaveThread();
    if (!pep788_about_to_sleep(first, all)
        || PyThread_acquire_lock_timed((PyThread_type_lock)first->wake, us, 1) != PY_LOCK_ACQUIRED) {
        if (pep788_slept(first)) {
            (void)PyThread_acquire_lock((PyThread_type_lock)first->wake, WAIT_LOCK);
        }
    }
    PyEval_RestoreThread(tstate);
}

/* Attached, on the finalizing thread, no exception set. */
static inline void pep788_wait_and_close(pep788_coordinator *first, int all)
{
    int keep_subs = all && pep788_subs_end_before_flag();
    double start, report;
    PyObject *tools, *before;
    if (pep788_try_close(first, all, keep_subs)) {
        return;
    }
    start = pep788_now();
    report = first->report_after;
    tools = pep788_tools();
    before = pep788_call(tools, "snapshot", NULL);
    for (;;) {
        PyObject *new_work = NULL;
        int work;
        /* Again after each sleep: main may have reopened a subinterpreter. */
        while (pep788_begin_wait(first, all), !pep788_step(first, all)) {
            double waited = pep788_now() - start;
            double limit = first->give_up_after;
            double last_call = limit < 2.0 ? limit / 2.0 : limit - 1.0;
            double next;
            if (limit >= 0.0 && waited >= limit) {
                pep788_report(first, all, waited, 1, tools);
                pep788_abandon(first, all);
                goto done;
            }
            if (waited >= report) {
                pep788_report(first, all, waited, 0, tools);
                report = waited + 2.0 * (report < 1.0 ? 1.0 : report);
            }
            next = report;
            if (limit >= 0.0) {
                double stage = last_call;
                if (waited >= last_call) {
                    pep788_last_call(first, all);
                    stage = limit;
                }
                next = stage < next ? stage : next;
            }
            next -= pep788_now() - start;
            pep788_sleep(first, all, next < 0.0 ? 0.0 : next);
            if (PyErr_CheckSignals() < 0) {
                pep788_interrupted(tools);
            }
        }
        /* G6: what appeared while other threads ran. Calls queued by guarded
           threads count as inside: they may need guards to finish. */
        pep788_tls.everywhere++;
        if (Py_MakePendingCalls() < 0) {
            pep788_interrupted(tools);
        }
        pep788_tls.everywhere--;
        if (before != NULL) {
            new_work = pep788_call(tools, "appeared", before);
        }
        work = 0;
        if (new_work != NULL) {
            PyObject *threads = PyTuple_GetItem(new_work, 0);
            PyObject *callbacks = PyTuple_GetItem(new_work, 1);
            work = (threads != NULL && PyList_Size(threads) > 0) || callbacks == Py_True;
        }
        if (work) {
            pep788_reopen(first, all, 0);
            Py_XDECREF(pep788_call(tools, "work", new_work));
            Py_XDECREF(before);
            before = pep788_call(tools, "snapshot", NULL);
        }
        Py_XDECREF(new_work);
        if (!work && pep788_try_close(first, all, keep_subs)) {
            break;
        }
    }
done:
    Py_XDECREF(before);
    Py_XDECREF(tools);
    PyErr_Clear();
}

typedef enum {
    PEP788_NOT_FINAL,    /* somebody ran or cleared the callbacks and lives on */
    PEP788_PERHAPS,      /* nothing tells */
    PEP788_FINAL
} pep788_end;

/* 1 if the frame's code uses an attribute or a global of that name. */
static inline int pep788_code_names(PyObject *frame, const char *name)
{
    PyObject *code = PyObject_GetAttrString(frame, "f_code");
    PyObject *names = code == NULL ? NULL : PyObject_GetAttrString(code, "co_names");
    PyObject *wanted = PyUnicode_FromString(name);
    int found = names != NULL && wanted != NULL && PySequence_Contains(names, wanted) > 0;
    PyErr_Clear();
    Py_XDECREF(wanted);
    Py_XDECREF(names);
    Py_XDECREF(code);
    return found;
}

/* 0 once threading._shutdown was called (it sets _SHUTTING_DOWN first, 3.9+, and
   soon counts the main thread as finished), 1 before, -1 if nothing tells:
   threading is not loaded, or somebody put their own _shutdown there. */
static inline int pep788_main_thread_runs(void)
{
    PyObject *modules = PySys_GetObject("modules");      /* borrowed */
    PyObject *threading = modules == NULL ? NULL : PyMapping_GetItemString(modules, "threading");
    PyObject *thread = threading == NULL ? NULL
                       : PyObject_CallMethod(threading, "main_thread", NULL);
    PyObject *alive = thread == NULL ? NULL : PyObject_CallMethod(thread, "is_alive", NULL);
    int runs = alive == Py_False ? 0 : -1;
    if (alive == Py_True) {
        PyObject *shutdown = PyObject_GetAttrString(threading, "_shutdown");
        PyObject *module = shutdown == NULL ? NULL : PyObject_GetAttrString(shutdown, "__module__");
        PyObject *ending = module == NULL ? NULL : PyObject_GetAttrString(threading, "_SHUTTING_DOWN");
        if (ending != NULL && PyUnicode_Check(module)
            && PyUnicode_CompareWithASCIIString(module, "threading") == 0) {
            runs = ending == Py_True ? 0 : 1;
        }
        Py_XDECREF(ending);
        Py_XDECREF(module);
        Py_XDECREF(shutdown);
    }
    PyErr_Clear();
    Py_XDECREF(alive);
    Py_XDECREF(thread);
    Py_XDECREF(threading);
    return runs;
}

/* N3: who made the callbacks' references go? A real end has no Python frame
   below it, except under Py_Exit called from C below Python code; but there
   threading._shutdown has run. No frame proves nothing: C code may call
   atexit._run_exitfuncs (mod_wsgi does); nor does a _shutdown that has not run,
   if threading was imported by a callback. */
static inline pep788_end pep788_classify(pep788_coordinator *c)
{
    PyObject *frame = (PyObject *)PyEval_GetFrame();     /* borrowed */
    int runs = pep788_main_thread_runs();
    if (runs == 1 && pep788_load_acquire(&c->threading_seen) != 0) {
        /* A signal's exception can end _shutdown before its first line. */
        return frame == NULL && c->is_main ? PEP788_PERHAPS : PEP788_NOT_FINAL;
    }
    if (!c->is_main) {
        /* Py_EndInterpreter is fatal with a frame. Without one never PERHAPS:
           destructors of a dying subinterpreter would bring it back to life. */
        return frame == NULL ? PEP788_FINAL : PEP788_NOT_FINAL;
    }
    /* Also after _shutdown: children of multiprocessing do, 3.13+, then _exit. */
    if (frame != NULL
        && (pep788_code_names(frame, "_run_exitfuncs") || pep788_code_names(frame, "_clear")
            || pep788_code_names(frame, "unregister"))) {
        return PEP788_NOT_FINAL;
    }
    if (runs == 0) {
        return PEP788_FINAL;
    }
    if (runs == 1 && frame != NULL) {
        return PEP788_NOT_FINAL;
    }
    return PEP788_PERHAPS;
}

/* Queued by a seam that was perhaps not final; if this runs, it was not. */
PEP788_C_BEGIN
static inline int pep788_revive(void *arg)
{
    pep788_coordinator *c = (pep788_coordinator *)arg;
    if (pep788_too_late()
        || PEP788_PTR(PyInterpreterState, c->interp) != PyInterpreterState_Get()) {
        return 0;
    }
    if (pep788_exchange_seq_cst(&c->revive, (pep788_word)0) != 0) {
        pep788_reopen(c, c->is_main, 1);
        pep788_store_release(&c->closer, (pep788_word)0);
        pep788_store_release(&c->seam, PEP788_SEAM_NONE);
    }
    pep788_rearm(c);
    return 0;
}
PEP788_C_END

/* Has pep788_revive run in this interpreter soon, from its eval loop. If it
   cannot be queued, FromCurrent on the closing thread does the same. */
static inline void pep788_revive_soon(pep788_coordinator *c)
{
    pep788_look_up();
    if (c->is_main || pep788_pending_is_per_interpreter()) {
        (void)Py_AddPendingCall(pep788_revive, c);
    }
    else if (pep788_shared.pending_312 != NULL) {
        /* 3.12, 3.13: private, (interpreter, function, argument, flags). */
        (void)pep788_shared.pending_312(PEP788_PTR(PyInterpreterState, c->interp),
                                        pep788_revive, c, 0);
    }
}

/* Attached, refused: 1 if the end was none after all. In a real one the thread
   that closed has only the flag and the destructors of its own frame before it. */
static inline int pep788_lives_on(pep788_record *r)
{
    pep788_coordinator *c = PEP788_PTR(pep788_coordinator, r->coordinator);
    if (c == NULL
        || pep788_load_acquire(&c->revive) != (pep788_word)PyThread_get_thread_ident()) {
        return 0;
    }
    (void)pep788_revive(c);
    return pep788_load_acquire(&c->revive) == 0;
}

/* Closed, attached to that interpreter: kept states of all copies go (F6). The
   end of a leftover subinterpreter begins with CPython, 3.13+, deleting the state
   that was made last, whoever has it. */
static inline void pep788_drop_all_kept(pep788_coordinator *c)
{
    pep788_coordinator *m = PEP788_PTR(pep788_coordinator, c->main);
    int leftover = !c->is_main
                   && (m == NULL || pep788_load_acquire(&m->seam) == PEP788_SEAM_PASSED);
    pep788_record *r;
    pep788_lock(&c->lock);
    r = c->records;
    pep788_unlock(&c->lock);
    for (; r != NULL; r = r->next) {     /* records are only ever put in front */
        r->ops->drop_kept(&r->home, leftover ? PEP788_DROP_THOSE_LEFT : PEP788_DROP);
    }
}

/* The atexit references are being dropped. */
static inline void pep788_seam(pep788_coordinator *c)
{
    PyObject *type, *value, *tb;
    pep788_end end;
    if (pep788_load_acquire(&c->phase) == PEP788_PHASE_CLOSED
        && pep788_load_acquire(&c->seam) == PEP788_SEAM_PASSED) {
        return;
    }
    PyErr_Fetch(&type, &value, &tb);
    if (pep788_too_late()) {
        /* Leftover subinterpreters up to 3.13: ended after the flag; main's
           seam has waited for them. */
        pep788_abandon(c, 0);
        pep788_drop_all_kept(c);
        PyErr_Restore(type, value, tb);
        return;
    }
    end = pep788_classify(c);
    if (end == PEP788_NOT_FINAL) {
        pep788_store_release(&c->seam, PEP788_SEAM_NONE);
        if (pep788_atexit_survives_clear()) {
            pep788_rearm(c);
        }
        else {
            pep788_revive_soon(c);
        }
    }
    else {
        pep788_store_release(&c->closer, (pep788_word)PyThread_get_thread_ident());
        pep788_store_release(&c->seam, PEP788_SEAM_PASSED);
        if (c->is_main) {
            pep788_record *r;
            pep788_lock(&c->lock);
            r = c->records;         /* only ever grows in front */
            pep788_unlock(&c->lock);
            for (; r != NULL; r = r->next) {
                r->ops->finalizes_here();
            }
        }
        pep788_wait_and_close(c, c->is_main);
        pep788_drop_all_kept(c);
        if (end == PEP788_PERHAPS) {
            pep788_store_release(&c->revive, (pep788_word)PyThread_get_thread_ident());
            /* Not on 3.14+: there Python code may still run in a real end. */
            if (!pep788_atexit_survives_clear()) {
                pep788_revive_soon(c);
            }
        }
    }
    PyErr_Restore(type, value, tb);
}

PEP788_C_BEGIN
static inline void pep788_seam_destroyed(PyObject *capsule)
{
    pep788_seam((pep788_coordinator *)PyCapsule_GetPointer(capsule, PEP788_SEAM));
}

/* Our callback's object went away; if it was never called (cleared, or
   registered while the callbacks ran), this is the last we hear. */
static inline void pep788_armed_destroyed(PyObject *capsule)
{
    if (PyCapsule_GetContext(capsule) == NULL) {
        pep788_seam((pep788_coordinator *)PyCapsule_GetPointer(capsule, PEP788_ARMED));
    }
}

static inline PyObject *pep788_never_called(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    Py_INCREF(Py_None);
    return Py_None;
}

static inline PyObject *pep788_at_exit(PyObject *self, PyObject *unused);
PEP788_C_END

/* Steals the capsule. */
static inline int pep788_register(PyMethodDef *method, PyObject *capsule)
{
    int status;
    if (capsule == NULL) {
        return -1;
    }
    status = pep788_call_at_exit(method, capsule);
    if (status < 0) {
        (void)PyCapsule_SetDestructor(capsule, NULL);    /* must not look like an end */
    }
    Py_DECREF(capsule);
    return status;
}

/* Called by atexit. The object is made here, on the finalizing thread: on a
   free-threaded build one made by another thread would be destroyed too late
   (biased reference counts). */
PEP788_C_BEGIN
static inline PyObject *pep788_at_exit(PyObject *self, PyObject *unused)
{
    static PyMethodDef method = {"pep788_seam", pep788_never_called, METH_NOARGS,
                                 "Kept by atexit; waits when destroyed."};
    void *c = PyCapsule_GetPointer(self, PEP788_ARMED);
    (void)unused;
    if (PyCapsule_GetContext(self) == NULL) {
        if (pep788_register(&method, PyCapsule_New(c, PEP788_SEAM, pep788_seam_destroyed)) == 0) {
            (void)PyCapsule_SetContext(self, c);
        }
        else {
            PyErr_Clear();      /* no memory: wait when `self` goes away */
        }
    }
    Py_INCREF(Py_None);
    return Py_None;
}
PEP788_C_END

/* Attached to that interpreter; -1 with an exception. */
static inline int pep788_arm(pep788_coordinator *c)
{
    static PyMethodDef method = {"pep788_at_exit", pep788_at_exit, METH_NOARGS,
                                 "Makes finalization wait for interpreter guards (PEP 788)."};
    pep788_word none = PEP788_SEAM_NONE;
    if (!pep788_cas_seq_cst(&c->seam, &none, PEP788_SEAM_ARMED)) {
        return 0;
    }
    pep788_store_release(&c->threading_seen, (pep788_word)(pep788_main_thread_runs() == 1));
    if (pep788_register(&method, PyCapsule_New(c, PEP788_ARMED, pep788_armed_destroyed)) < 0) {
        pep788_store_release(&c->seam, PEP788_SEAM_NONE);
        return -1;
    }
    return 0;
}

/* Attached: 1 if the present interpreter waits for guards at its end, or has. */
static inline int pep788_seam_passed(void)
{
    pep788_record *r = pep788_find(PyInterpreterState_Get());
    pep788_coordinator *c = r == NULL ? NULL : PEP788_PTR(pep788_coordinator, r->coordinator);
    return c != NULL && pep788_load_acquire(&c->seam) == PEP788_SEAM_PASSED;
}

PEP788_NOT_INLINE void pep788_rearm(pep788_coordinator *c)
{
    PyObject *type, *value, *tb;
    if (pep788_too_late()) {
        return;
    }
    PyErr_Fetch(&type, &value, &tb);
    if (pep788_arm(c) < 0) {
        PyErr_Clear();          /* the next attached call tries again */
    }
    PyErr_Restore(type, value, tb);
}

/* ------------------------------------------------------------------------- */
/* 7  Fork and set-up                                                         */
/* ------------------------------------------------------------------------- */

#ifndef _WIN32
PEP788_C_BEGIN
/* In the parent: memory for the child, where malloc may not be called. */
static inline void pep788_before_fork(void)
{
    pep788_record *r = &pep788_shared.main;
    int first = 1;
    while (r != NULL) {
        if (pep788_load_acquire(&r->status) == PEP788_LIVE && r->spare[0] == NULL) {
            pep788_cell *pair[2];
            if (pep788_new_pair(pair, r)) {
                r->spare[1] = pair[1];
                r->spare[0] = pair[0];
            }
        }
        r = first ? PEP788_PTR(pep788_record, pep788_shared.subs) : r->sibling;
        first = 0;
    }
}

/* Before CPython's own child handlers, which run destructors. */
static inline void pep788_in_child(void)
{
    pep788_record *r = &pep788_shared.main;
    int first = 1;
    pep788_store_relaxed(&pep788_shared.pool_lock, (pep788_word)0);
    if (pep788_load_relaxed(&pep788_shared.symbols) == 1) {
        pep788_store_relaxed(&pep788_shared.symbols, (pep788_word)0);  /* look again */
    }
    pep788_forget_gilstate_key();
    while (r != NULL) {
        pep788_coordinator *c = PEP788_PTR(pep788_coordinator, r->coordinator);
        pep788_after_fork_in_child(r);
        pep788_kept_in_child(&r->home);
        if (c != NULL) {
            pep788_word phase = pep788_load_acquire(&c->phase);
            pep788_store_relaxed(&c->waiting, (pep788_word)0);
            c->wake = NULL;      /* may be in any state: leaked, made anew */
            if (phase != PEP788_PHASE_CLOSED) {
                /* The finalizing thread, if there was one, is gone, and with it our
                   atexit entry. */
                pep788_store_release(&c->phase, PEP788_PHASE_OPEN);
                pep788_store_release(&c->wide, (pep788_word)0);
                if (pep788_load_acquire(&c->seam) == PEP788_SEAM_PASSED) {
                    pep788_store_release(&c->seam, PEP788_SEAM_NONE);
                }
            }
        }
        r = first ? PEP788_PTR(pep788_record, pep788_shared.subs) : r->sibling;
        first = 0;
    }
}
PEP788_C_END
#endif

static inline void pep788_watch_forks(void)
{
#ifndef _WIN32
    pep788_word no = 0;
    if (pep788_cas_seq_cst(&pep788_shared.forks, &no, (pep788_word)1)) {
        (void)pthread_atfork(pep788_before_fork, NULL, pep788_in_child);
    }
#endif
}

static inline double pep788_seconds(const char *variable, double fallback)
{
    const char *text = getenv(variable);
    double seconds = -1.0;
    if (text == NULL || *text == '\0') {
        return fallback;
    }
    seconds = PyOS_string_to_double(text, NULL, NULL);
    if (PyErr_Occurred() || !(seconds >= 0.0 && seconds <= 1e9)) {
        PyErr_Clear();
        PySys_FormatStderr("pep788: %s='%s' is not a number of seconds from 0 to 1e9; "
                           "it is ignored, give a number like 2.5\n", variable, text);
        return fallback;
    }
    return seconds;
}

static inline int pep788_wants_trace(int warn)
{
    const char *text = getenv("PEP788_TRACE");
    if (text == NULL || *text == '\0') {
        text = getenv("PEP788_WATCHDOG");   /* its reports name threads and ages, too */
        return text != NULL && *text != '\0' && strcmp(text, "0") != 0;
    }
    if (strcmp(text, "0") == 0) {
        return 0;
    }
    if (strcmp(text, "1") == 0) {
        return 1;
    }
    if (warn) {
        PySys_FormatStderr("pep788: PEP788_TRACE='%s' is neither 0 nor 1; it is ignored, "
                           "give 1 to name the threads that took guards\n", text);
    }
    return 0;
}

/* "module.so" of this copy; the name lives as long as the module. */
static inline const char *pep788_module_name(void)
{
#ifdef PEP788_MODULE_NAME
    return PEP788_MODULE_NAME;
#elif defined(_WIN32)
    return "(unnamed: define PEP788_MODULE_NAME)";
#else
    /* dladdr is in every libc, its declaration is not (glibc: _GNU_SOURCE). */
    struct { const char *file; void *base; const char *symbol; void *address; } info;
    int (*dladdr_)(const void *, void *) = NULL;
    void *found = pep788_symbol("dladdr");
    const char *slash;
    memcpy(&dladdr_, &found, sizeof(found));
    if (dladdr_ == NULL || dladdr_(&pep788_shared, &info) == 0 || info.file == NULL) {
        return "(unnamed: define PEP788_MODULE_NAME)";
    }
    slash = strrchr(info.file, '/');
    return slash == NULL ? info.file : slash + 1;
#endif
}

/* abi3 on 3.9-3.11: where a thread state keeps its thread's id; found in the
   attached one, only if exactly one word matches. */
static inline void pep788_find_thread_id(void)
{
#ifdef Py_LIMITED_API
    if (!pep788_current_is_thread_local() && PEP788_THREAD_ID_AT == 0) {
        const unsigned long *words = (const unsigned long *)(const void *)PyThreadState_Get();
        unsigned long me = PyThread_get_thread_ident();
        size_t i, at = 0, matches = 0;
        for (i = 4; i < 256 / sizeof(unsigned long); i++) {    /* PyThreadState is larger */
            if (words[i] == me) {
                at = i * sizeof(unsigned long);
                matches++;
            }
        }
        if (matches == 1) {
            pep788_store_relaxed(&pep788_shared.thread_id_at, (pep788_word)at);
        }
    }
#endif
}

static inline pep788_coordinator *pep788_new_coordinator(void)
{
    pep788_coordinator *c;
    pep788_lock(&pep788_shared.pool_lock);
    c = pep788_shared.pool;
    if (c != NULL) {
        pep788_shared.pool = c->pooled;
    }
    pep788_unlock(&pep788_shared.pool_lock);
    if (c == NULL) {
        c = (pep788_coordinator *)calloc(1, sizeof(*c));
    }
    if (c != NULL) {
        pep788_lock(&c->lock);      /* late closes still look */
        c->abi = PEP788_ABI;
        c->subs = c->next_sub = c->pooled = NULL;
        pep788_store_release(&c->closer, (pep788_word)0);
        pep788_store_release(&c->wide, (pep788_word)0);
        c->records = NULL;
        pep788_store_release(&c->main, (pep788_word)0);
        pep788_store_release(&c->phase, PEP788_PHASE_OPEN);
        pep788_store_release(&c->seam, PEP788_SEAM_NONE);
        pep788_store_release(&c->revive, (pep788_word)0);
        pep788_unlock(&c->lock);
    }
    return c;
}

static inline void pep788_unlink(pep788_coordinator *c)
{
    pep788_coordinator *m = PEP788_PTR(pep788_coordinator, c->main);
    pep788_coordinator **link;
    if (m == NULL || m == c) {
        return;
    }
    pep788_lock(&m->lock);
    for (link = &m->subs; *link != NULL; link = &(*link)->next_sub) {
        if (*link == c) {
            *link = c->next_sub;
            break;
        }
    }
    c->next_sub = NULL;
    pep788_unlock(&m->lock);
    pep788_wake(m);     /* main may have been waiting for this one */
}

/* The interpreter's dict is cleared: it is gone. No Python call in here. */
PEP788_C_BEGIN
static inline void pep788_interpreter_gone(PyObject *capsule)
{
    pep788_coordinator *c = (pep788_coordinator *)PyCapsule_GetPointer(capsule, PEP788_CAPSULE);
    pep788_record *r;
    pep788_unlink(c);
    pep788_lock(&c->lock);
    pep788_close_locked(c);
    r = c->records;
    c->records = NULL;
    while (r != NULL) {
        pep788_record *next = r->next;
        r->ops->drop_kept(&r->home, PEP788_FORGET);
        pep788_store_release(&r->interp, (pep788_word)0);
        pep788_store_release(&r->status, PEP788_ENDED);  /* last: then it may be reused */
        r = next;
    }
    if (c->is_main) {
        pep788_coordinator *sub = c->subs;
        c->subs = NULL;
        while (sub != NULL) {       /* leftovers that never end */
            pep788_coordinator *next = sub->next_sub;
            pep788_store_release(&sub->main, (pep788_word)0);
            sub->next_sub = NULL;
            sub = next;
        }
    }
    pep788_store_release(&c->interp, (pep788_word)0);
    pep788_unlock(&c->lock);
    pep788_lock(&pep788_shared.pool_lock);
    c->pooled = pep788_shared.pool;
    pep788_shared.pool = c;
    pep788_unlock(&pep788_shared.pool_lock);
}
PEP788_C_END

/* The coordinator of the current interpreter; NULL with an exception. */
static inline pep788_coordinator *pep788_coordinate(PyInterpreterState *interp)
{
    PyObject *dict = PyInterpreterState_GetDict(interp);     /* borrowed */
    PyObject *capsule = NULL, *mine;
    pep788_coordinator *c = NULL;
    if (dict == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    capsule = PyMapping_GetItemString(dict, PEP788_CAPSULE);
    if (capsule == NULL) {
        PyErr_Clear();
        c = pep788_new_coordinator();
        if (c == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        c->id = PyInterpreterState_GetID(interp);
        c->is_main = c->id == 0;
        c->report_after = pep788_seconds("PEP788_REPORT_AFTER", 10.0);
        c->give_up_after = pep788_seconds("PEP788_GIVE_UP_AFTER", -1.0);
        (void)pep788_wants_trace(1);
        pep788_store_release(&c->interp, (pep788_word)interp);
        if (c->is_main) {
            pep788_store_release(&c->main, (pep788_word)c);
        }
        mine = PyCapsule_New(c, PEP788_CAPSULE, pep788_interpreter_gone);
        if (mine == NULL) {
            pep788_lock(&pep788_shared.pool_lock);
            c->pooled = pep788_shared.pool;
            pep788_shared.pool = c;
            pep788_unlock(&pep788_shared.pool_lock);
            return NULL;
        }
        /* Atomic: another copy may be here as well on a free-threaded build. */
        capsule = PyObject_CallMethod(dict, "setdefault", "sO", PEP788_CAPSULE, mine);
        Py_DECREF(mine);
        if (capsule == NULL) {
            return NULL;
        }
    }
    c = (pep788_coordinator *)PyCapsule_GetPointer(capsule, PEP788_CAPSULE);
    Py_DECREF(capsule);     /* the dict keeps it */
    return c;
}

static inline int pep788_is_of(pep788_record *r, PyInterpreterState *interp)
{
    pep788_word status;
    if (PEP788_PTR(PyInterpreterState, r->interp) != interp) {
        return 0;
    }
    status = pep788_load_acquire(&r->status);   /* stored last when it joins */
    return status == PEP788_LIVE || status == PEP788_ENDING;
}

/* This copy's record of an interpreter somebody is attached to, or NULL. */
static inline pep788_record *pep788_find(PyInterpreterState *interp)
{
    pep788_record *r = &pep788_shared.main;
    if (!pep788_is_of(r, interp)) {
        r = PEP788_PTR(pep788_record, pep788_shared.subs);
        while (r != NULL && !pep788_is_of(r, interp)) {
            r = r->sibling;
        }
    }
    return r;
}

static inline pep788_record *pep788_new_record(int is_main)
{
    pep788_record *r = &pep788_shared.main;
    if (!is_main) {
        pep788_lock(&pep788_shared.pool_lock);
        r = PEP788_PTR(pep788_record, pep788_shared.subs);
        for (; r != NULL; r = r->sibling) {
            /* Not with leaked guards: an Ensure on one would attach to a stranger. */
            if (pep788_load_acquire(&r->status) == PEP788_ENDED
                && pep788_load_acquire(&r->refs) == 0
                && (r->pair[0] == NULL || pep788_record_count(r) == 0)) {
                pep788_store_release(&r->status, PEP788_NEVER);   /* ours now */
                break;
            }
        }
        pep788_unlock(&pep788_shared.pool_lock);
        if (r == NULL) {
            r = (pep788_record *)calloc(1, sizeof(*r));
            if (r == NULL) {
                return NULL;
            }
            r->shards = PEP788_SHARDS;
            pep788_lock(&pep788_shared.pool_lock);
            r->sibling = PEP788_PTR(pep788_record, pep788_shared.subs);
            r->bucket = 1 + (r->sibling == NULL ? 0 : r->sibling->bucket) % (PEP788_BUCKETS - 1);
            pep788_store_release(&pep788_shared.subs, (pep788_word)r);
            pep788_unlock(&pep788_shared.pool_lock);
        }
    }
    return r;
}

static inline pep788_record *pep788_set_up(PyInterpreterState *interp);

/* Attached to a subinterpreter, which is what tells: on 3.9-3.11 `here` may not
   look attached (_xxsubinterpreters runs code of any thread in the state of the
   one that made the interpreter). Attaches to the main one for a call. -1 if
   there is no memory, and nothing was called. */
static inline int pep788_visit_main(PyInterpreterState *main_interp, void (*call)(void *), void *arg)
{
    PyThreadState *here = PyThreadState_Get();
    PyThreadState *there = PyGILState_GetThisThreadState();
    int visitor = there == NULL || there == here || pep788_current_is_thread_local()
                  || pep788_interp_of(there) != main_interp;
    if (visitor) {
        there = pep788_new_state(main_interp);
        if (there == NULL) {
            return -1;
        }
    }
    (void)PyThreadState_Swap(there);
    call(arg);
    if (visitor) {
        PyThreadState_Clear(there);
    }
    (void)PyThreadState_Swap(here);
    if (visitor) {
        PyThreadState_Delete(there);
    }
    return 0;
}

PEP788_C_BEGIN
static inline void pep788_set_up_main(void *main_interp)
{
    if (pep788_set_up((PyInterpreterState *)main_interp) == NULL) {
        PyErr_Clear();
    }
}
PEP788_C_END

/* Attached to a subinterpreter: makes the main interpreter wait for it too (up
   to 3.13 a leftover subinterpreter is ended after the flag, if at all), and this
   copy known there, for views of main. */
static inline void pep788_link_to_main(pep788_coordinator *c)
{
    pep788_record *r = &pep788_shared.main;
    pep788_coordinator *m = NULL;
    PyInterpreterState *main_interp = pep788_main_interp();
    if (main_interp == NULL) {
        return;
    }
    if (PEP788_PTR(PyInterpreterState, r->interp) != main_interp) {
        (void)pep788_visit_main(main_interp, pep788_set_up_main, main_interp);
    }
    if (PEP788_PTR(PyInterpreterState, r->interp) == main_interp) {
        m = PEP788_PTR(pep788_coordinator, r->coordinator);
    }
    if (m == NULL || PEP788_PTR(pep788_coordinator, c->main) != NULL) {
        return;
    }
    pep788_lock(&m->lock);
    pep788_lock(&c->lock);
    if (PEP788_PTR(pep788_coordinator, c->main) == NULL) {
        pep788_word phase = pep788_load_acquire(&m->phase);
        pep788_store_release(&c->main, (pep788_word)m);
        c->next_sub = m->subs;
        m->subs = c;
        if (phase == PEP788_PHASE_DRAIN || phase == PEP788_PHASE_INSIDERS) {
            pep788_apply(c, phase, 1);  /* main is waiting: take part */
        }
        else if (phase == PEP788_PHASE_CLOSED && !pep788_subs_end_before_flag()) {
            pep788_close_locked(c);
        }
    }
    pep788_unlock(&c->lock);
    pep788_unlock(&m->lock);
}

static inline void pep788_raise_finalizing(void)
{
    PyObject *type = pep788_finalization_error();
    PyErr_SetString(type, "cannot acquire an interpreter guard: the interpreter is finalizing");
    Py_DECREF(type);
    pep788_tls.failure = PEP788_FINALIZING;
}

/* Attached to `interp`, no exception set. */
static inline pep788_record *pep788_join(PyInterpreterState *interp)
{
    pep788_coordinator *c;
    pep788_record *r;
    pep788_look_up();
    pep788_find_thread_id();
    pep788_watch_forks();
    pep788_choose_fence(1);
    c = pep788_coordinate(interp);
    if (c == NULL) {
        return NULL;
    }
    r = pep788_find(interp);
    if (r != NULL && PEP788_PTR(pep788_coordinator, r->coordinator) != c) {
        pep788_store_release(&r->interp, (pep788_word)0);   /* an older one at that address */
        r = NULL;
    }
    if (r == NULL) {
        pep788_record *mine = pep788_new_record(c->is_main);
        pep788_cell *pair[2] = {NULL, NULL};
        const char *name;
        /* Cells are used again, unless guards of an earlier interpreter (leaked,
           or of before a fork) still count on them. */
        if (mine != NULL && mine->pair[0] != NULL && pep788_record_count(mine) == 0) {
            pair[0] = mine->pair[0];
            pair[1] = mine->pair[1];
        }
        if (mine == NULL || (pair[0] == NULL && !pep788_new_pair(pair, mine))) {
            if (mine != NULL && !c->is_main) {
                pep788_store_release(&mine->status, PEP788_ENDED);
            }
            PyErr_NoMemory();
            return NULL;
        }
        pep788_find_gilstate_key(c->is_main);
        name = pep788_module_name();    /* takes the loader's lock: not under ours */
        pep788_lock(&c->lock);
        for (r = c->records; r != NULL && r->ops != &pep788_shared.ops; r = r->next) {
        }
        if (r == NULL) {
            r = mine;
            pep788_drop_kept(&r->home, PEP788_FORGET);  /* of an interpreter that never ended */
            pep788_lock(&r->traced_lock);
            if (r->pair[0] != pair[0]) {
                r->traced = NULL;
            }
            r->pair[0] = pair[0];
            r->pair[1] = pair[1];
            pep788_unlock(&r->traced_lock);
            r->ops = &pep788_shared.ops;
            r->name = name;
            r->id = c->id;
            pep788_store_release(&r->status, PEP788_NEVER);
            /* Before the cells open: who holds a guard attaches to it. */
            pep788_store_release(&r->interp, (pep788_word)interp);
            pep788_join_locked(c, r);
            mine = NULL;
        }
        pep788_unlock(&c->lock);
        if (mine != NULL && mine != r) {
            mine->pair[0] = pair[0];    /* another thread was faster: for the next one */
            mine->pair[1] = pair[1];
            pep788_store_release(&mine->status, PEP788_ENDED);
        }
    }
    pep788_store_relaxed(&pep788_shared.trace, (pep788_word)pep788_wants_trace(0));
    if (pep788_arm(c) < 0) {
        return NULL;
    }
    if (!c->is_main) {
        pep788_link_to_main(c);
    }
    return r;
}

/* Attached to `interp`, which this copy does not know or whose seam is lost. Keeps
   the exception that the caller may have set; NULL with another one. */
static inline pep788_record *pep788_set_up(PyInterpreterState *interp)
{
    PyObject *type, *value, *tb;
    pep788_record *r;
    if (pep788_too_late()) {
        pep788_raise_finalizing();
        return NULL;
    }
    PyErr_Fetch(&type, &value, &tb);
    r = pep788_join(interp);
    if (r != NULL) {
        PyErr_Restore(type, value, tb);
    }
    else {
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(tb);
    }
    return r;
}

/* Attached: this copy's record of the current interpreter, set up if need be;
   NULL with an exception. */
static inline pep788_record *pep788_here(void)
{
    PyInterpreterState *interp = PyInterpreterState_Get();
    pep788_record *r = pep788_find(interp);
    if (r != NULL) {
        pep788_coordinator *c = PEP788_PTR(pep788_coordinator, r->coordinator);
        if (pep788_load_acquire(&c->seam) != PEP788_SEAM_NONE) {
            return r;
        }
    }
    r = pep788_set_up(interp);
    if (r == NULL && PyErr_ExceptionMatches(PyExc_MemoryError)) {
        pep788_tls.failure = PEP788_NO_MEMORY;
    }
    return r;
}

/* Release of a token that another copy's Ensure made. Attached. */
static inline int pep788_release_elsewhere(void *token)
{
    pep788_record *r, *mine = pep788_current() == NULL ? NULL
                              : pep788_find(PyInterpreterState_Get());
    pep788_coordinator *c = mine == NULL ? NULL
                            : PEP788_PTR(pep788_coordinator, mine->coordinator);
    void (*release)(void *) = NULL;
    if (c == NULL) {
        return 0;
    }
    pep788_lock(&c->lock);
    for (r = c->records; r != NULL && release == NULL; r = r->next) {
        if (r->ops != &pep788_shared.ops && r->ops->ensures() != 0) {
            release = r->ops->release;
        }
    }
    pep788_unlock(&c->lock);
    if (release == NULL) {
        return 0;
    }
    release(token);
    return 1;
}

/* ------------------------------------------------------------------------- */
/* 8  The API                                                                 */
/* ------------------------------------------------------------------------- */

/* What a PyInterpreterView points to. */
typedef struct {
    pep788_record *record;      /* NULL: made too late, always refused */
    int counted;                /* in record->refs; the main one is never reused */
} pep788_view;

/* 0, with a reason: none. */
static inline pep788_word pep788_open_view(pep788_thread *t, PyInterpreterView *view)
{
    pep788_view *v = (pep788_view *)(void *)view;
    if (v == NULL || v->record == NULL) {
        t->failure = v == NULL ? PEP788_NOT_INITIALIZED : PEP788_FINALIZING;
        return 0;
    }
    return pep788_open_guard(t, v->record);
}

static inline PyInterpreterGuard *pep788_Guard_FromCurrent(void)
{
    pep788_thread *t = pep788_this_thread();
    pep788_record *r;
    pep788_word guard;
#if PEP788_LATE_NATIVE
    pep788_look_up();
    if (pep788_shared.guard_from_current != NULL) {
        return pep788_shared.guard_from_current();
    }
#endif
    r = pep788_here();
    if (r == NULL) {
        return NULL;
    }
    guard = pep788_open_guard(t, r);
    if (guard == 0 && pep788_lives_on(r)) {
        guard = pep788_open_guard(t, r);
    }
    if (guard == 0) {
        if (t->failure == PEP788_NO_MEMORY) {
            PyErr_NoMemory();
        }
        else {
            pep788_raise_finalizing();
        }
    }
    return (PyInterpreterGuard *)guard;
}

static inline PyInterpreterGuard *pep788_Guard_FromView(PyInterpreterView *view)
{
#if PEP788_LATE_NATIVE
    pep788_look_up();
    if (pep788_shared.guard_from_view != NULL) {
        return pep788_shared.guard_from_view(view);
    }
#endif
    return (PyInterpreterGuard *)pep788_open_view(pep788_this_thread(), view);
}

static inline void pep788_Guard_Close(PyInterpreterGuard *guard)
{
#if PEP788_LATE_NATIVE
    pep788_look_up();
    if (pep788_shared.guard_close != NULL) {
        pep788_shared.guard_close(guard);
        return;
    }
#endif
    if (guard != NULL) {
        pep788_close_guard((pep788_word)guard);
    }
}

static inline PyInterpreterView *pep788_new_view(pep788_record *record, int counted)
{
    pep788_view *v = (pep788_view *)malloc(sizeof(*v));
    if (v == NULL) {
        pep788_tls.failure = PEP788_NO_MEMORY;
        return NULL;
    }
    v->record = record;
    v->counted = counted;
    if (counted) {
        (void)pep788_add_acq_rel(&record->refs, (pep788_word)1);
    }
    return (PyInterpreterView *)(void *)v;
}

static inline PyInterpreterView *pep788_View_FromCurrent(void)
{
    PyInterpreterView *view;
    pep788_record *r;
#if PEP788_LATE_NATIVE
    pep788_look_up();
    if (pep788_shared.view_from_current != NULL) {
        return pep788_shared.view_from_current();
    }
#endif
    r = pep788_here();
    if (r == NULL) {
        if (!pep788_too_late()) {
            return NULL;
        }
        PyErr_Clear();
        if (PyInterpreterState_Get() == pep788_main_interp()) {
            r = &pep788_shared.main;    /* follows it through Py_Initialize */
        }
    }
    view = pep788_new_view(r, r != NULL && r != &pep788_shared.main);
    if (view == NULL) {
        PyErr_NoMemory();
    }
    return view;
}

static inline PyInterpreterView *pep788_View_FromMain(void)
{
#if PEP788_LATE_NATIVE
    pep788_look_up();
    if (pep788_shared.view_from_main != NULL) {
        return pep788_shared.view_from_main();
    }
#endif
    return pep788_new_view(&pep788_shared.main, 0);
}

static inline void pep788_View_Close(PyInterpreterView *view)
{
    pep788_view *v = (pep788_view *)(void *)view;
#if PEP788_LATE_NATIVE
    pep788_look_up();
    if (pep788_shared.view_close != NULL) {
        pep788_shared.view_close(view);
        return;
    }
#endif
    if (v != NULL) {
        if (v->counted) {
            (void)pep788_sub_seq_cst(&v->record->refs, (pep788_word)1);
        }
        free(v);
    }
}

static inline PyThreadStateToken *pep788_Ensure(PyInterpreterGuard *guard)
{
#if PEP788_LATE_NATIVE
    pep788_look_up();
    if (pep788_shared.ensure != NULL) {
        return pep788_shared.ensure(guard);
    }
#endif
    if (guard == NULL) {
        Py_FatalError("PyThreadState_Ensure: NULL guard; test what "
                      "PyInterpreterGuard_FromView and FromCurrent return");
    }
    return pep788_attach(pep788_this_thread(), (pep788_word)guard);
}

static inline PyThreadStateToken *pep788_EnsureFromView(PyInterpreterView *view)
{
    pep788_thread *t;
    pep788_word guard;
    void *token;
#if PEP788_LATE_NATIVE
    pep788_look_up();
    if (pep788_shared.ensure_from_view != NULL) {
        return pep788_shared.ensure_from_view(view);
    }
#endif
    t = pep788_this_thread();
    guard = pep788_open_view(t, view);
    if (guard == 0) {
        return NULL;
    }
    token = pep788_attach(t, guard | PEP788_OWNS);
    if (token == NULL) {
        pep788_close_guard(guard);
    }
    return token;
}

static inline void pep788_Release(PyThreadStateToken *token)
{
#if PEP788_LATE_NATIVE
    pep788_look_up();
    if (pep788_shared.release != NULL) {
        pep788_shared.release(token);
        return;
    }
#endif
    pep788_detach(token);
}

/*
 * PyInterpreterGuard *PyInterpreterGuard_FromCurrent(void)
 *
 * A guard of the current interpreter: it does not finalize while the guard is
 * open. Needs an attached thread state. The caller owns the guard and gives it
 * to PyInterpreterGuard_Close, on any thread. NULL with PythonFinalizationError
 * (RuntimeError before 3.13) or MemoryError. Any number of threads may call it.
 * PEP 788; CPython 3.9+.
 */
#define PyInterpreterGuard_FromCurrent pep788_Guard_FromCurrent
/*
 * PyInterpreterGuard *PyInterpreterGuard_FromView(PyInterpreterView *view)
 *
 * A guard of the viewed interpreter; the view stays valid. Needs no thread
 * state, allocates nothing, takes no lock. NULL without exception when that
 * interpreter is not there (Pep788_LastFailure says why). Any thread, at any
 * time. PEP 788; CPython 3.9+.
 */
#define PyInterpreterGuard_FromView pep788_Guard_FromView
/*
 * void PyInterpreterGuard_Close(PyInterpreterGuard *guard)
 *
 * Gives a guard back; the last one lets finalization go on at once. Needs no
 * thread state; any thread. Cannot fail. PEP 788; CPython 3.9+.
 */
#define PyInterpreterGuard_Close pep788_Guard_Close
/*
 * PyInterpreterView *PyInterpreterView_FromCurrent(void)
 *
 * A view of the current interpreter, which it does not keep alive. Needs an
 * attached thread state. The caller owns it: PyInterpreterView_Close. NULL with
 * MemoryError. A view of the main interpreter follows it through
 * Py_FinalizeEx and Py_Initialize. PEP 788; CPython 3.9+.
 */
#define PyInterpreterView_FromCurrent pep788_View_FromCurrent
/*
 * PyInterpreterView *PyInterpreterView_FromMain(void)
 *
 * A view of the main interpreter, even before it exists. Needs no thread state.
 * Unlike native 3.15 it gives guards only once Pep788_Init (or FromCurrent) has
 * run in some interpreter: a foreign thread cannot install what finalization
 * must wait in. NULL without exception: no memory. PEP 788; CPython 3.9+.
 */
#define PyInterpreterView_FromMain pep788_View_FromMain
/*
 * void PyInterpreterView_Close(PyInterpreterView *view)
 *
 * Frees the view. Any thread, at any time, no thread state needed. No other
 * thread may be using the same view. PEP 788; CPython 3.9+.
 */
#define PyInterpreterView_Close pep788_View_Close
/*
 * PyThreadStateToken *PyThreadState_Ensure(PyInterpreterGuard *guard)
 *
 * Attaches this thread to the guarded interpreter, whatever it is attached to
 * now; nests. The guard must stay open until the matching PyThreadState_Release
 * on this thread. NULL without exception: no memory, nothing changed.
 * PEP 788; CPython 3.9+.
 */
#define PyThreadState_Ensure pep788_Ensure
/*
 * PyThreadStateToken *PyThreadState_EnsureFromView(PyInterpreterView *view)
 *
 * As PyThreadState_Ensure, with a guard of its own that the matching Release
 * closes. NULL without exception when the interpreter is finalizing, gone or
 * not there yet: the caller goes on without Python. Any thread, at any time.
 * PEP 788; CPython 3.9+.
 */
#define PyThreadState_EnsureFromView pep788_EnsureFromView
/*
 * void PyThreadState_Release(PyThreadStateToken *token)
 *
 * Undoes the matching Ensure, in reverse order, on the same thread. Needs the
 * attached thread state that Ensure left. Fatal error if called more often than
 * Ensure. PEP 788; CPython 3.9+.
 */
#define PyThreadState_Release pep788_Release

#endif /* !PEP788_NATIVE */

/* -- extras; the same on native 3.15 as far as that can tell -- */

/*
 * Sets the current interpreter up: call it in module initialization. Needs an
 * attached thread state. Idempotent and cheap when repeated. 0, or -1 with an
 * exception. Foreign threads can acquire guards from then on. CPython 3.9+;
 * does nothing where the native API is used.
 */
static inline int Pep788_Init(void)
{
#if PEP788_NATIVE
    return 0;
#else
#  if PEP788_LATE_NATIVE
    pep788_look_up();
    if (pep788_shared.ensure != NULL) {
        return 0;
    }
#  endif
    return pep788_here() == NULL ? -1 : 0;
#endif
}

/*
 * Guards open on an interpreter, of all modules that use our implementation;
 * -1 where the native API is used, which does not tell. For tests and
 * diagnosis: the number may be old when it arrives. The interpreter must be
 * alive and Pep788_Init have run in it; else 0. Any thread. CPython 3.9+.
 */
static inline Py_ssize_t Pep788_GuardCount(PyInterpreterState *interp)
{
#if PEP788_NATIVE
    (void)interp;
    return -1;
#else
    pep788_record *r;
    pep788_coordinator *c;
    size_t n = 0;
#  if PEP788_LATE_NATIVE
    pep788_look_up();
    if (pep788_shared.ensure != NULL) {
        return -1;
    }
#  endif
    r = pep788_find(interp);
    c = r == NULL ? NULL : PEP788_PTR(pep788_coordinator, r->coordinator);
    if (c != NULL) {
        pep788_lock(&c->lock);
        for (r = c->records; r != NULL; r = r->next) {
            n += pep788_open_guards(r);
        }
        pep788_unlock(&c->lock);
    }
    return (Py_ssize_t)n;
#endif
}

/*
 * The interpreter a guard protects. Any thread; borrowed, valid while the guard
 * is open. On native 3.15 it has to attach for a moment, and is NULL if there
 * is no memory for that. CPython 3.9+.
 */
static inline PyInterpreterState *Pep788_GuardInterpreter(PyInterpreterGuard *guard)
{
#if !PEP788_NATIVE
#  if PEP788_LATE_NATIVE
    pep788_look_up();
    if (pep788_shared.ensure == NULL)
#  endif
    {
        return PEP788_PTR(PyInterpreterState, pep788_cell_of((pep788_word)guard)->record->interp);
    }
#endif
#if PEP788_NATIVE || PEP788_LATE_NATIVE
    {
        PyThreadStateToken *token = PyThreadState_Ensure(guard);
        PyInterpreterState *interp = NULL;
        if (token != NULL) {
            interp = PyInterpreterState_Get();
            PyThreadState_Release(token);
        }
        return interp;
    }
#endif
}

/*
 * Why the last call of this thread that gave NULL did so. Any thread. On native
 * 3.15 it is a guess from the interpreter's present state. CPython 3.9+.
 */
static inline Pep788_Failure Pep788_LastFailure(void)
{
#if !PEP788_NATIVE
#  if PEP788_LATE_NATIVE
    pep788_look_up();
    if (pep788_shared.ensure == NULL)
#  endif
    {
        return pep788_tls.failure;
    }
#endif
    /* Py_IsInitialized() turns 0 when finalization passes the flag. */
#if PEP788_NATIVE
    return Py_IsInitialized() || Py_IsFinalizing() ? PEP788_FINALIZING : PEP788_NOT_INITIALIZED;
#elif PEP788_LATE_NATIVE
    return Py_IsInitialized() || pep788_shared.is_finalizing() ? PEP788_FINALIZING
                                                               : PEP788_NOT_INITIALIZED;
#endif
}

/* A failure in words, for messages. Static string. Any thread. */
static inline const char *Pep788_FailureName(Pep788_Failure failure)
{
    switch (failure) {
    case PEP788_OK:
        return "no failure";
    case PEP788_NOT_INITIALIZED:
        return "not initialized";
    case PEP788_FINALIZING:
        return "finalizing";
    case PEP788_GONE:
        return "gone";
    case PEP788_NO_MEMORY:
        return "no memory";
    }
    return "unknown failure";
}

/*
 * Drops a reference from any thread at any time: steals `object` (may be NULL)
 * and releases it if the viewed interpreter is there; if it is too late the
 * reference is leaked, which is harmless then. Never fails, never throws. The
 * object must belong to the viewed interpreter. CPython 3.9+.
 */
static inline void Pep788_DropRef(PyInterpreterView *view, PyObject *object)
{
    if (object != NULL) {
        PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
        if (token != NULL) {
            Py_DECREF(object);
            PyThreadState_Release(token);
        }
    }
}

#if !PEP788_NATIVE && PEP788_KEEPS
PEP788_NOT_INLINE PyThreadStateToken *pep788_ensure_kept_slowly(PyInterpreterView *view)
{
    pep788_thread *t = pep788_this_thread();
    pep788_word guard = pep788_open_view(t, view);
    void *token = NULL;
    if (guard != 0) {
        token = pep788_attach_kept(t, guard | PEP788_OWNS, ((pep788_view *)(void *)view)->record);
        if (token == NULL) {
            pep788_close_guard(guard);
        }
    }
    return token;
}
#endif

/*
 * As PyThreadState_EnsureFromView, for threads that call back often: on a thread
 * without a thread state the one it makes is kept and re-attached by later calls
 * of the same thread, with the same thread-locals, context and
 * threading.current_thread(), for a tenth (3.14+) to a fifth (3.11-3.13) of the
 * cost. In between it is detached, holds nothing up, and for
 * PyGILState_GetThisThreadState() it is not there. It is deleted when the thread
 * exits or that interpreter finalizes, whichever is first. Any thread, at any
 * time; nothing need be attached. NULL without exception, as
 * PyThreadState_EnsureFromView. The caller owns the token and gives it to
 * Pep788_ReleaseKept on the same thread. Where it cannot be kept (docs/limits.md)
 * this is PyThreadState_EnsureFromView. pep788 0.1.0; CPython 3.9+.
 */
static inline PyThreadStateToken *Pep788_EnsureKept(PyInterpreterView *view)
{
#if !PEP788_NATIVE && PEP788_KEEPS
    pep788_view *v = (pep788_view *)(void *)view;
    void *token = v == NULL || v->record == NULL ? NULL : pep788_attach_light(v->record);
    return token != NULL ? token : pep788_ensure_kept_slowly(view);
#elif PEP788_KEEPS
    return pep788_native_ensure_kept(view);
#else
    return PyThreadState_EnsureFromView(view);
#endif
}

/*
 * Undoes the matching Pep788_EnsureKept, in reverse order with all other
 * Ensures, on the same thread; PyThreadState_Release is not for these tokens.
 * Needs the attached thread state that EnsureKept left. Fatal error if called
 * more often. pep788 0.1.0; CPython 3.9+.
 */
static inline void Pep788_ReleaseKept(PyThreadStateToken *token)
{
#if PEP788_NATIVE && PEP788_KEEPS
    pep788_native_release_kept(token);
#else
#  if PEP788_KEEPS
    if (((pep788_word)token & PEP788_TAGS) == PEP788_KEPT) {
        pep788_detach_light((pep788_word)token);
        return;
    }
#  endif
    PyThreadState_Release(token);
#endif
}

/*
 * The modules that use our implementation in the current interpreter: a new
 * list of (name, open guards). Needs an attached thread state. NULL with an
 * exception. Empty where the native API is used. CPython 3.9+.
 */
static inline PyObject *Pep788_Modules(void)
{
    PyObject *list = PyList_New(0);
#if !PEP788_NATIVE
    struct { const char *name; size_t count; } some[64];
    size_t i, n = 0;
    pep788_record *r = pep788_find(PyInterpreterState_Get());
    if (list != NULL && r != NULL) {
        pep788_coordinator *c = PEP788_PTR(pep788_coordinator, r->coordinator);
        pep788_lock(&c->lock);
        for (r = c->records; r != NULL && n < 64; r = r->next, n++) {
            some[n].name = r->name;
            some[n].count = pep788_open_guards(r);
        }
        pep788_unlock(&c->lock);
        for (i = 0; i < n; i++) {
            PyObject *item = Py_BuildValue("(sn)", some[i].name, (Py_ssize_t)some[i].count);
            if (item == NULL || PyList_Append(list, item) < 0) {
                Py_XDECREF(item);
                Py_DECREF(list);
                return NULL;
            }
            Py_DECREF(item);
        }
    }
#endif
    return list;
}

/*
 * For language bindings whose guarded blocks do not Ensure: this thread counts
 * as inside one (F9) until the matching Leave, so it may take the guards it
 * needs to finish while finalization waits. Any thread. CPython 3.9+.
 */
static inline void Pep788_EnterInsider(void)
{
#if !PEP788_NATIVE
    pep788_tls.everywhere++;
#endif
}

/* Undoes Pep788_EnterInsider; on a thread without one it does nothing. */
static inline void Pep788_LeaveInsider(void)
{
#if !PEP788_NATIVE
    if (pep788_tls.everywhere != 0) {
        pep788_tls.everywhere--;
    }
#endif
}

/* ------------------------------------------------------------------------- */
/* 9  PEP788_REPLACE_GILSTATE: recompiling is enough (F11)                     */
/*                                                                             */
/*    The outermost PyGILState_Ensure of a thread takes a guard of the main      */
/*    interpreter, its Release closes it. It cannot report failure, so a late   */
/*    caller sleeps for ever, as on 3.15: it is not unwound and does not crash. */
/* ------------------------------------------------------------------------- */

#ifdef PEP788_REPLACE_GILSTATE

#if PEP788_NATIVE || PEP788_LATE_NATIVE
PEP788_C_BEGIN
PEP788_ONE_COPY pep788_word pep788_main_view = 0;
PEP788_C_END

static inline PyInterpreterGuard *pep788_cached_main_guard(void)
{
    PyInterpreterView *view = PEP788_PTR(PyInterpreterView, pep788_main_view);
    if (view == NULL) {
        pep788_word none = 0;
        view = PyInterpreterView_FromMain();
        if (view == NULL) {
            return NULL;
        }
        if (!pep788_cas_seq_cst(&pep788_main_view, &none, (pep788_word)view)) {
            PyInterpreterView_Close(view);
            view = (PyInterpreterView *)none;
        }
    }
    return PyInterpreterGuard_FromView(view);
}
#endif

#if PEP788_NATIVE
typedef struct {
    unsigned gil_depth, gil_attaches;
    pep788_word gil_guard;
} pep788_gilstate_thread;
PEP788_C_BEGIN
PEP788_ONE_COPY PEP788_THREAD pep788_gilstate_thread pep788_gilstate = PEP788_ZERO;
PEP788_C_END
#  define pep788_gil_tls pep788_gilstate
#  define pep788_main_guard pep788_cached_main_guard
#else
#  define pep788_gil_tls pep788_tls
static inline PyInterpreterGuard *pep788_main_guard(void)
{
#  if PEP788_LATE_NATIVE
    pep788_look_up();
    if (pep788_shared.ensure != NULL) {
        return pep788_cached_main_guard();
    }
#  endif
    return (PyInterpreterGuard *)pep788_open_guard(pep788_this_thread(), &pep788_shared.main);
}
#endif

static inline void pep788_park(void)
{
    for (;;) {
#ifdef _WIN32
        Sleep(INFINITE);
#else
        (void)pause();
#endif
    }
}

#if PEP788_NATIVE
/* 3.15: the function itself hangs a late caller, except the finalizing thread. */
static inline void pep788_gil_refused(void) {}
static inline int pep788_gil_unbound(void) { return 0; }
#else
/* The thread that finalizes may attach during teardown: a destructor detaches, and
   what it calls then calls back. */
static inline int pep788_gil_is_closer(void)
{
    pep788_record *r = &pep788_shared.main;
    pep788_coordinator *c = PEP788_PTR(pep788_coordinator, r->coordinator);
    pep788_word status = pep788_load_acquire(&r->status);
    return c != NULL && (status == PEP788_LIVE || status == PEP788_ENDING)
           && pep788_load_acquire(&c->closer) == (pep788_word)PyThread_get_thread_ident()
           && PyGILState_GetThisThreadState() != NULL;
}

static inline void pep788_gil_refused(void)
{
#  if PEP788_LATE_NATIVE
    if (pep788_shared.ensure != NULL) {
        return;
    }
#  endif
    if (pep788_current() == NULL && !pep788_gil_is_closer()) {
        pep788_park();
    }
}
/* 3.9-3.11: PyGILState_Ensure would deadlock on the GIL this thread holds. */
static inline int pep788_gil_unbound(void)
{
    PyThreadState *current;
    if (pep788_current_is_thread_local()) {
        return 0;
    }
    current = pep788_current();
    return current != NULL && current != pep788_bound();
}
#endif

#if !PEP788_NATIVE
/* An embedding program that is recompiled initializes Python through here. */
#define PEP788_EMBEDS ((pep788_word)1)          /* it has done so */
#define PEP788_INITIALIZES ((pep788_word)2)     /* and is at it */

static inline void pep788_gil_initialized(void)
{
    if (Py_IsInitialized() && Pep788_Init() < 0) {
        PyErr_Clear();
    }
    pep788_store_release(&pep788_shared.embeds, PEP788_EMBEDS);
}

static inline void pep788_gil_initialize_ex(int signals)
{
    pep788_store_release(&pep788_shared.embeds, PEP788_INITIALIZES);
    Py_InitializeEx(signals);
    pep788_gil_initialized();
}

static inline void pep788_gil_initialize(void)
{
    pep788_gil_initialize_ex(1);
}

#ifndef Py_LIMITED_API
static inline PyStatus pep788_gil_initialize_from(const PyConfig *config)
{
    PyStatus status;
    pep788_store_release(&pep788_shared.embeds, PEP788_INITIALIZES);
    status = Py_InitializeFromConfig(config);
    pep788_gil_initialized();
    return status;
}
#endif

/* No module initialization came by here, in this Py_Initialize: the program waits
   for it, if it initializes Python itself; else this one call is not guarded yet. */
static inline PyInterpreterGuard *pep788_gil_init(void)
{
    unsigned turns = 0;
    while (pep788_load_acquire(&pep788_shared.embeds) == PEP788_INITIALIZES
           && pep788_current() == NULL) {
        PEP788_SPIN(&turns);
    }
    if (pep788_load_acquire(&pep788_shared.embeds) == 0 && Py_IsInitialized()) {
        /* Not in a subinterpreter: PyGILState_Ensure would deadlock there up to 3.11. */
        int attached = pep788_current() != NULL;
        PyGILState_STATE state = attached ? PyGILState_LOCKED : PyGILState_Ensure();
        PyObject *type, *value, *tb;
        PyErr_Fetch(&type, &value, &tb);
        if (Pep788_Init() < 0) {
            PyErr_Clear();
        }
        PyErr_Restore(type, value, tb);
        if (!attached) {
            PyGILState_Release(state);
        }
    }
    return pep788_main_guard();
}
#endif

/* cffi calls Ensure once more than Release, so that CPython keeps the thread state: a
   call is over when the Release of the Ensure that attached has detached. */
static inline PyGILState_STATE pep788_gilstate_ensure(void)
{
    PyGILState_STATE state;
    int counts = pep788_gil_tls.gil_depth == 0 || pep788_gil_tls.gil_attaches != 0;
    if (pep788_gil_tls.gil_depth == 0) {
        PyInterpreterGuard *guard = pep788_main_guard();
#if !PEP788_NATIVE
        if (guard == NULL && (Pep788_LastFailure() == PEP788_NOT_INITIALIZED
                              || Pep788_LastFailure() == PEP788_GONE)) {
            guard = pep788_gil_init();
        }
#endif
        if (guard == NULL) {
            pep788_gil_refused();
        }
        else {
            Pep788_EnterInsider();
        }
        pep788_gil_tls.gil_guard = (pep788_word)guard;
    }
    pep788_gil_tls.gil_depth++;
    state = pep788_gil_unbound() ? PyGILState_LOCKED : PyGILState_Ensure();
    if (counts && state == PyGILState_UNLOCKED) {
        pep788_gil_tls.gil_attaches++;
    }
    return state;
}

static inline void pep788_gilstate_release(PyGILState_STATE state)
{
    if (!pep788_gil_unbound()) {
        PyGILState_Release(state);
    }
    if (state == PyGILState_UNLOCKED && pep788_gil_tls.gil_attaches != 0
        && --pep788_gil_tls.gil_attaches == 0) {
        pep788_gil_tls.gil_depth = 1;
    }
    if (pep788_gil_tls.gil_depth != 0 && --pep788_gil_tls.gil_depth == 0
        && pep788_gil_tls.gil_guard != 0) {
        PyInterpreterGuard *guard = (PyInterpreterGuard *)pep788_gil_tls.gil_guard;
        pep788_gil_tls.gil_guard = 0;
        Pep788_LeaveInsider();
        PyInterpreterGuard_Close(guard);
    }
}

#if PEP788_NATIVE || PEP788_LATE_NATIVE
/* The native wait would wait for the guard of the thread that finalizes, if that
   is inside a PyGILState_Ensure: an embedding program that calls Py_FinalizeEx
   there, or a callback that ends in Py_Exit. Ours: pep788_finalizes_here. */
static inline void pep788_gil_finalizes(void)
{
    PyInterpreterGuard *guard = (PyInterpreterGuard *)pep788_gil_tls.gil_guard;
#  if PEP788_LATE_NATIVE
    if (pep788_shared.ensure == NULL) {
        return;
    }
#  endif
    pep788_gil_tls.gil_guard = 0;
    if (guard != NULL) {
        Pep788_LeaveInsider();
        PyInterpreterGuard_Close(guard);
    }
}

PEP788_C_BEGIN
static inline PyObject *pep788_gil_at_exit(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    pep788_gil_finalizes();
    Py_INCREF(Py_None);
    return Py_None;
}
PEP788_C_END

static inline int pep788_gil_set_up(void)
{
    static PyMethodDef method = {"pep788_gilstate", pep788_gil_at_exit, METH_NOARGS,
                                 "Gives the guard of the finalizing thread back."};
    if (Pep788_Init() < 0) {
        return -1;
    }
#  if PEP788_LATE_NATIVE
    if (pep788_shared.ensure == NULL) {
        return 0;
    }
#  endif
    return pep788_call_at_exit(&method, NULL);
}

static inline int pep788_gil_finalize(void)
{
    pep788_gil_finalizes();
    return Py_FinalizeEx();
}
#  define Py_FinalizeEx pep788_gil_finalize
#  define Py_Finalize() ((void)pep788_gil_finalize())
#else
#  define pep788_gil_set_up Pep788_Init
#endif

/* Unchanged sources do not call Pep788_Init; their module creation does. */
static inline PyObject *pep788_module_create(PyModuleDef *def, int api_version)
{
    if (pep788_gil_set_up() < 0) {
        return NULL;
    }
    return PyModule_Create2(def, api_version);
}

static inline PyObject *pep788_module_init(PyModuleDef *def)
{
    if (pep788_gil_set_up() < 0) {
        return NULL;
    }
    return PyModuleDef_Init(def);
}

#undef PyModule_Create2
#define PyModule_Create2(def, api_version) pep788_module_create((def), (api_version))
#undef PyModuleDef_Init
#define PyModuleDef_Init(def) pep788_module_init(def)
#define PyGILState_Ensure pep788_gilstate_ensure
#define PyGILState_Release pep788_gilstate_release
#if !PEP788_NATIVE
#  define Py_Initialize pep788_gil_initialize
#  define Py_InitializeEx pep788_gil_initialize_ex
#  ifndef Py_LIMITED_API
#    define Py_InitializeFromConfig pep788_gil_initialize_from
#  endif
#endif
#endif /* PEP788_REPLACE_GILSTATE */

#endif /* !PEP788_ENGINE_ONLY */
#endif /* PEP788_H */
