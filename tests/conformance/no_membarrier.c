/* Preloaded: membarrier is not to be had, or (NO_MEMBARRIER=later) is forbidden once the process was registered, as by
 * a seccomp filter. Whatever else is called goes on to the kernel.
 */
#ifndef _GNU_SOURCE
#  define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#define REGISTER 16

long
syscall(long number, ...)
{
    long (*next)(long, ...) = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    const char *how = getenv("NO_MEMBARRIER");
    long a[6];
    va_list arguments;
    va_start(arguments, number);
    for (int i = 0; i < 6; i++) {
        a[i] = va_arg(arguments, long);
    }
    va_end(arguments);
    if (number == SYS_membarrier && !(how != NULL && strcmp(how, "later") == 0 && (int)a[0] == REGISTER)) {
        errno = how == NULL || strcmp(how, "later") != 0 ? ENOSYS : EPERM;
        return -1;
    }
    return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
