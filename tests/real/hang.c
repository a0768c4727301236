/* The first thread of a process, which is the relay's loop, hangs while the file PGOUTBOX_TEST_HANG is
 * there. Loaded before the C library; all other threads go on. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout) {
    static int (*real)(int, struct epoll_event *, int, int);
    const char *path = getenv("PGOUTBOX_TEST_HANG");
    if (!real)
        real = (int (*)(int, struct epoll_event *, int, int))dlsym(RTLD_NEXT, "epoll_wait");
    while (path && syscall(SYS_gettid) == getpid() && access(path, F_OK) == 0)
        usleep(20000);
    return real(epoll, events, most, timeout);
}
