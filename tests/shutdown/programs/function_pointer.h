/* What ctypes and cffi do: the library is given a plain C function pointer and knows nothing of Python. */
#ifndef PEP788_SHUTDOWN_FUNCTION_POINTER_H
#define PEP788_SHUTDOWN_FUNCTION_POINTER_H

#ifdef __cplusplus
extern "C"
#endif
int start_library(void (*callback)(long)); /* 0, or an errno */

#endif
