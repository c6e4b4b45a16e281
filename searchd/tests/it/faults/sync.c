/* Loaded before libc: while the file $NEARFIELD_SYNC_FAULT exists, syncing fails as it does on a dying disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int fails(void) {
    const char *fault = getenv("NEARFIELD_SYNC_FAULT");
    return fault && access(fault, F_OK) == 0;
}

static int pass(const char *name, int fd) {
    if (fails()) {
        errno = EIO;
        return -1;
    }
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return real(fd);
}

int fsync(int fd) { return pass("fsync", fd); }
int fdatasync(int fd) { return pass("fdatasync", fd); }
