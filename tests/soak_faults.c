// A wall clock that steps and a disk that fills, for one process: tests/soak.py loads it with LD_PRELOAD.
//
// Both take effect below Python: the program's C code, SQLite and the interpreter see the same. The file SOAK_FAULTS has
// three 64-bit integers, which the test changes while the program runs: by how many seconds the clock is ahead, how many
// octets the disk has left (negative: no limit), and the number of writes that found no room.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static struct {
    int64_t ahead_s, left, failed;
} none = {0, -1, 0}, *faults = &none;

__attribute__((constructor)) static void load(void) {
    const char *path = getenv("SOAK_FAULTS");
    int file = path == NULL ? -1 : open(path, O_RDWR | O_CLOEXEC);
    void *map = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *faults, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (map == MAP_FAILED)
        abort();  // a soak without its faults would prove nothing
    faults = map;
    close(file);
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (real == NULL) \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    int failed = real(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += __atomic_load_n(&faults->ahead_s, __ATOMIC_RELAXED);
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result != NULL)
        *result = now.tv_sec;
    return now.tv_sec;
}

// Whether the disk has room for a write that ends at `end`: overwriting needs none, as on a real one.
static int has_room(int file, int64_t end) {
    struct stat status;
    int64_t left = __atomic_load_n(&faults->left, __ATOMIC_RELAXED);
    if (left < 0 || fstat(file, &status) != 0 || !S_ISREG(status.st_mode) || end <= status.st_size)
        return 1;
    if (end - status.st_size <= left) {
        __atomic_fetch_sub(&faults->left, end - status.st_size, __ATOMIC_RELAXED);
        return 1;
    }
    __atomic_fetch_add(&faults->failed, 1, __ATOMIC_RELAXED);
    errno = ENOSPC;
    return 0;
}

ssize_t pwrite64(int file, const void *octets, size_t size, off64_t at) {
    REAL(pwrite64);
    return has_room(file, at + (int64_t)size) ? real(file, octets, size, at) : -1;
}

ssize_t pwrite(int file, const void *octets, size_t size, off_t at) {
    return pwrite64(file, octets, size, at);
}

ssize_t write(int file, const void *octets, size_t size) {
    REAL(write);
    off_t at = __atomic_load_n(&faults->left, __ATOMIC_RELAXED) < 0 ? -1 : lseek(file, 0, SEEK_CUR);
    return at < 0 || has_room(file, at + (int64_t)size) ? real(file, octets, size) : -1;
}

int statvfs64(const char *restrict path, struct statvfs64 *restrict room) {
    REAL(statvfs64);
    int failed = real(path, room);
    int64_t left = __atomic_load_n(&faults->left, __ATOMIC_RELAXED);
    if (!failed && left >= 0)
        room->f_bfree = room->f_bavail = (fsblkcnt64_t)left / room->f_frsize;
    return failed;
}

int statvfs(const char *restrict path, struct statvfs *restrict room) {
    return statvfs64(path, (struct statvfs64 *)room);
}
