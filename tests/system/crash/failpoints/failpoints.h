/* What MOLT_FAILPOINT does in a test build: the process that passes an armed point sends itself a signal there.
 *
 * Points are armed by a file that control.py maps too. Nothing is looked up unless one is armed, so that the moments
 * between two steps stay about as short as they are. */
#ifndef MOLT_FAILPOINTS_H
#define MOLT_FAILPOINTS_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    char name[40];
    _Atomic int64_t countdown; /* it is the n-th passage from now on that counts; 0 or less: not armed */
    _Atomic int64_t only;      /* passages of this process, or of any (0) */
    _Atomic int64_t signal;
    _Atomic int64_t pid, hit_ns; /* who was hit, and when */
    int64_t reserved[6];
} molt_failpoint_record;

_Static_assert(sizeof(molt_failpoint_record) == 128, "the record of control.py");

/* The first record has no name: its countdown says whether any point is armed. NULL: the file isn't known yet. */
static molt_failpoint_record *molt_failpoints;
static size_t molt_failpoints_count;

static inline void molt_failpoints_map(void) {
    const char *path = getenv("MOLT_FAILPOINTS_FILE");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    struct stat found;
    if (fd < 0)
        return;
    if (!fstat(fd, &found)) {
        void *base = mmap(NULL, (size_t)found.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (base != MAP_FAILED)
            molt_failpoints = base, molt_failpoints_count = (size_t)found.st_size / sizeof(molt_failpoint_record);
    }
    close(fd);
}

/* Exported, for the points in Python modules. */
__attribute__((visibility("default"), noinline)) void molt_failpoint(const char *name) {
    int saved = errno;
    if (!molt_failpoints)
        molt_failpoints_map();
    if (molt_failpoints && atomic_load(&molt_failpoints[0].countdown)) {
        int known = 0;
        for (size_t i = 1; i < molt_failpoints_count; i++) {
            molt_failpoint_record *p = &molt_failpoints[i];
            if (strcmp(p->name, name))
                continue;
            known = 1;
            if (atomic_load(&p->countdown) <= 0)
                continue;
            int64_t only = atomic_load(&p->only);
            if ((only && only != getpid()) || atomic_fetch_sub(&p->countdown, 1) != 1)
                continue;
            atomic_store(&p->hit_ns, (int64_t)molt_now_ns());
            atomic_store(&p->pid, getpid());
            raise((int)atomic_load(&p->signal)); /* of this thread: it is acted on before this returns */
        }
        if (!known)
            abort(); /* a point that the table lacks: nobody would ever be killed there */
    }
    errno = saved;
}

#define MOLT_FAILPOINT(name) molt_failpoint(#name)

#endif
