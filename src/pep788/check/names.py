"""The C API names that rules look for, and what a late attach does on each version."""

from __future__ import annotations

import re

ENSURE = "PyGILState_Ensure"
RELEASE = "PyGILState_Release"

LATE = (
    "It has no way to fail: once finalization has begun the calling thread is ended inside its own frames "
    "(3.9-3.13.7), never returns (3.13.8+), or runs on while Python is torn down (3.14, a thread's first attach); "
    "after finalization the process crashes (up to 3.14)."
)

TOKEN_OPEN = frozenset({"PyThreadState_Ensure", "PyThreadState_EnsureFromView", "Pep788_EnsureKept"})
TOKEN_CLOSE = frozenset({"PyThreadState_Release", "Pep788_ReleaseKept"})
GUARD_OPEN = frozenset({"PyInterpreterGuard_FromCurrent", "PyInterpreterGuard_FromView"})
GUARD_CLOSE = frozenset({"PyInterpreterGuard_Close"})

DETACH = frozenset({"PyEval_SaveThread", "PyEval_ReleaseThread", "Py_BEGIN_ALLOW_THREADS", "Py_UNBLOCK_THREADS"})
REATTACH = frozenset({"PyEval_RestoreThread", "PyEval_AcquireThread", "Py_END_ALLOW_THREADS", "Py_BLOCK_THREADS"})
NEW_STATE = frozenset({"PyThreadState_New"})
SCOPED_ACQUIRE = "gil_scoped_acquire"
SCOPED_RELEASE = "gil_scoped_release"

INITIALIZE = frozenset({"Py_Initialize", "Py_InitializeEx", "Py_InitializeFromConfig", "Py_Main", "Py_BytesMain"})
FINALIZE = frozenset({"Py_Finalize", "Py_FinalizeEx", "Py_EndInterpreter"})
FINALIZING_TESTS = frozenset({"Py_IsInitialized", "Py_IsFinalizing", "_Py_IsFinalizing", "_Py_Finalizing"})
LOOKUPS = frozenset({"PyInterpreterState_Main", "PyInterpreterState_Head", "PyInterpreterState_Next"})
JOINS = frozenset({"pthread_join", "thrd_join", "pthread_timedjoin_np"})
# Library functions that wait until a callback on another thread has returned, or until its thread has ended.
LIBRARY_WAITS = {
    "Pa_StopStream": "PortAudio's callback",
    "Pa_AbortStream": "PortAudio's callback",
    "Pa_CloseStream": "PortAudio's callback",
    "pa_threaded_mainloop_stop": "PulseAudio's event loop",
    "mosquitto_loop_stop": "Mosquitto's network thread",
    "MHD_stop_daemon": "libmicrohttpd's threads",
    "g_thread_join": "a GLib thread",
    "uv_thread_join": "a libuv thread",
    "SDL_WaitThread": "an SDL thread",
    "SDL_CloseAudioDevice": "SDL's audio callback",
    "cudaStreamSynchronize": "host functions in the stream",
    "cudaDeviceSynchronize": "host functions in the streams",
    "cuStreamSynchronize": "host functions in the stream",
    "cuCtxSynchronize": "host functions in the streams",
    "WaitForThreadpoolWorkCallbacks": "callbacks of the thread pool",
    "WaitForThreadpoolTimerCallbacks": "callbacks of the thread pool",
    "WaitForThreadpoolWaitCallbacks": "callbacks of the thread pool",
}
NO_RETURN = frozenset(
    {"abort", "exit", "_exit", "_Exit", "quick_exit", "Py_FatalError", "Py_Exit", "pthread_exit", "longjmp",
     "PyThread_exit_thread", "std::terminate", "std::abort", "std::exit", "__builtin_unreachable", "Py_UNREACHABLE"}
)  # fmt: skip

# A thread that calls one of these is attached, or its program is wrong already.
NEEDS_ATTACHED = re.compile(
    r"Py(Object|Arg|Tuple|List|Dict|Long|Unicode|Err|Bytes|Import|Module|Float|Set|Sequence|Mapping|Capsule|Iter)_\w+"
    r"|Py_(BuildValue|DECREF|XDECREF|CLEAR|XSETREF|SETREF)"
)

# Statements without a semicolon: a C parser would take the next statement for a declarator.
STATEMENT_MACROS = ("Py_BEGIN_ALLOW_THREADS", "Py_END_ALLOW_THREADS", "Py_BLOCK_THREADS", "Py_UNBLOCK_THREADS")

# A file with none of these words needs no parse tree.
INTERESTING = re.compile(
    rb"PyGILState_(?:Ensure|Release|STATE)|PyThreadState_(?:New|Ensure|Release)|PyInterpreter(?:Guard|View|State)_"
    rb"|Pep788_|PyEval_(?:Acquire|Restore|Save|Release)Thread|_?Py_IsFinalizing|_Py_Finalizing|gil_scoped_acquire"
    rb"|\b(?:" + b"|".join(name.encode() for name in sorted(JOINS | set(LIBRARY_WAITS))) + rb")\b|std::j?thread"
)
INTERESTING_CYTHON = re.compile(
    rb"PyGILState_|\bgil\b|\bwith_gil\b|PyThreadState_|PyInterpreter(?:Guard|View|State)_|Py_Is(?:Initialized|Finalizing)"
)
