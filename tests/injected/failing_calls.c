/* Makes one chosen call of one chosen process fail, below Python: loaded by LD_PRELOAD.
 *
 * FAILING_CALLS names a control file of lines NAME=VALUE:
 *
 *   root   only files below this folder are looked at
 *   log    every call on them is appended to this file, as "ROLE OP PATH"; empty: none is
 *   role   whose call fails: parent, worker or guard
 *   op     which call: open, write, close, rename, mkdir, link, unlink, truncate, sync, read (an open for reading)
 *   path   a pattern of fnmatch(3) for the file's path below root; of a rename, the new one
 *   at     the number of the call, from 1, over all processes
 *   act    an errno's name; short (half is written, and that is said); cut-NAME (half is written, the next write
 *          fails); full-NAME (this one and all that follow on files below root fail); kill (SIGKILL before it; of a
 *          write: after half of it); kill-after
 *   hits   a file of two 32-bit numbers, shared: calls so far, and whether it has struck
 *
 * The role is that of failing_calls_begin, or it is told from the command line.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char my_role[32], root[1024], log_path[1024], role[32], op[32], pattern[1024], act[64];
static size_t root_length;
static unsigned at;
static struct shared { _Atomic unsigned calls, struck; } *hits;
static int active;
static __thread int cut_fd = -1;

static int number_of(const char *name)
{
    static const struct { const char *name; int number; } known[] = {
        {"ENOSPC", ENOSPC}, {"EIO", EIO}, {"EDQUOT", EDQUOT}, {"EACCES", EACCES}, {"EROFS", EROFS}, {"ESTALE", ESTALE},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, name))
            return known[i].number;
    return EIO;
}

static void take(char *text)
{
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *value = strchr(line, '=');
        if (!value)
            continue;
        *value++ = 0;
        if (!strcmp(line, "root")) snprintf(root, sizeof root, "%s", value);
        else if (!strcmp(line, "log")) snprintf(log_path, sizeof log_path, "%s", value);
        else if (!strcmp(line, "role")) snprintf(role, sizeof role, "%s", value);
        else if (!strcmp(line, "op")) snprintf(op, sizeof op, "%s", value);
        else if (!strcmp(line, "path")) snprintf(pattern, sizeof pattern, "%s", value);
        else if (!strcmp(line, "act")) snprintf(act, sizeof act, "%s", value);
        else if (!strcmp(line, "at")) at = atoi(value);
        else if (!strcmp(line, "hits")) {
            int fd = syscall(SYS_openat, AT_FDCWD, value, O_RDWR | O_CLOEXEC, 0);
            void *found = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *hits, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            hits = found == MAP_FAILED ? NULL : found;
            if (fd >= 0)
                syscall(SYS_close, fd);
        }
    }
    root_length = strlen(root);
    active = root_length > 0;
}

/* Begin to look, as this role, by this control file; an empty one ends it. */
void failing_calls_begin(const char *as, const char *control)
{
    static char text[8192];
    active = 0;
    at = 0;
    hits = NULL;
    log_path[0] = act[0] = root[0] = 0;
    snprintf(my_role, sizeof my_role, "%s", as);
    int fd = control && *control ? syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC, 0) : -1;
    if (fd < 0)
        return;
    ssize_t got = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    if (got > 0) {
        text[got] = 0;
        take(text);
    }
}

static int has(const char *words, ssize_t size, const char *end)
{
    for (const char *word = words; word < words + size; word += strlen(word) + 1) {
        size_t length = strlen(word), wanted = strlen(end);
        if (length >= wanted && !strcmp(word + length - wanted, end))
            return 1;
    }
    return 0;
}

__attribute__((constructor)) static void begin(void)
{
    static char words[65536];
    const char *control = getenv("FAILING_CALLS");
    if (!control || !*control)
        return;
    int fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY | O_CLOEXEC, 0);
    ssize_t size = fd < 0 ? 0 : syscall(SYS_read, fd, words, sizeof words - 1);
    if (fd >= 0)
        syscall(SYS_close, fd);
    const char *as = "other";
    if (has(words, size, "/processes/guard.py"))
        as = "guard";
    else if (has(words, size, "evalscope_evalflow/worker"))
        as = "worker";
    else if (has(words, size, "/evalflow") || has(words, size, "/evalscope"))
        as = "parent";
    failing_calls_begin(as, control);
}

/* The path below root, or NULL. */
static const char *below(const char *path)
{
    if (strncmp(path, root, root_length) || path[root_length] != '/')
        return NULL;
    return path + root_length + 1;
}

static const char *path_of(int dir, const char *path, char *room, size_t size)
{
    if (path[0] == '/')
        return below(path);
    char base[1024], link[64];
    if (dir == AT_FDCWD)
        snprintf(link, sizeof link, "/proc/self/cwd");
    else
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    ssize_t length = readlink(link, base, sizeof base - 1);
    if (length <= 0)
        return NULL;
    base[length] = 0;
    snprintf(room, size, "%s/%s", base, path);
    return below(room);
}

static const char *path_of_fd(int fd, char *room, size_t size)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, room, size - 1);
    if (length <= 0)
        return NULL;
    room[length] = 0;
    return below(room);
}

static void die(void)
{
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;)
        pause();
}

static void note(const char *call, const char *path)
{
    char line[1200];
    int length = snprintf(line, sizeof line, "%s %s %s\n", my_role, call, path);
    int fd = syscall(SYS_openat, AT_FDCWD, log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    syscall(SYS_write, fd, line, length);
    syscall(SYS_close, fd);
}

/* What shall happen to a call: NULL: nothing. */
static const char *fate(const char *call, const char *path)
{
    if (!path)
        return NULL;
    if (log_path[0])
        note(call, path);
    if (!act[0] || !hits)
        return NULL;
    int full = !strncmp(act, "full-", 5);
    if (full && atomic_load(&hits->struck) && strcmp(call, "close") && strcmp(call, "read") && strcmp(call, "unlink"))
        return act;
    if (strcmp(my_role, role) || strcmp(call, op) || fnmatch(pattern, path, 0))
        return NULL;
    if (atomic_fetch_add(&hits->calls, 1) + 1 != at)
        return NULL;
    atomic_store(&hits->struck, 1);
    return act;
}

static int fails(const char *what)
{
    if (!strcmp(what, "kill"))
        die();
    if (!strcmp(what, "kill-after") || !strcmp(what, "short"))
        return 0;
    if (!strncmp(what, "cut-", 4))
        what += 4;
    if (!strncmp(what, "full-", 5))
        what += 5;
    errno = number_of(what);
    return 1;
}

static void after(const char *what)
{
    if (what && !strcmp(what, "kill-after"))
        die();
}

#define NEXT(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) \
        real = dlsym(RTLD_NEXT, name)

static const char *fate_of_open(int dir, const char *path, int flags)
{
    char room[2300];
    if (!active || (flags & O_DIRECTORY))
        return NULL;
    int writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT);
    return fate(writes ? "open" : "read", path_of(dir, path, room, sizeof room));
}

#define OPEN(symbol, extra, DIR) \
    int symbol(DIR const char *path, int flags, ...) \
    { \
        mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { \
            va_list list; \
            va_start(list, flags); \
            mode = va_arg(list, mode_t); \
            va_end(list); \
        } \
        const char *what = fate_of_open(DIRECTORY, path, flags); \
        if (what && fails(what)) \
            return -1; \
        int fd = syscall(SYS_openat, DIRECTORY, path, flags | extra, mode); \
        after(what); \
        return fd; \
    }

#define DIRECTORY AT_FDCWD
OPEN(open, 0, )
OPEN(open64, O_LARGEFILE, )
#undef DIRECTORY
#define DIRECTORY dir
#define WITH_DIR int dir,
OPEN(openat, 0, WITH_DIR)
OPEN(openat64, O_LARGEFILE, WITH_DIR)

static FILE *open_stream(FILE *(*real)(const char *, const char *), const char *path, const char *mode)
{
    int flags = strchr(mode, 'w') ? O_WRONLY | O_CREAT : strchr(mode, 'a') ? O_WRONLY | O_CREAT
        : strchr(mode, '+') ? O_RDWR : O_RDONLY;
    const char *what = fate_of_open(AT_FDCWD, path, flags);
    if (what && fails(what))
        return NULL;
    FILE *found = real(path, mode);
    after(what);
    return found;
}

FILE *fopen(const char *path, const char *mode)
{
    NEXT(FILE *, "fopen", const char *, const char *);
    return open_stream(real, path, mode);
}

FILE *fopen64(const char *path, const char *mode)
{
    NEXT(FILE *, "fopen64", const char *, const char *);
    return open_stream(real, path, mode);
}

static const char *fate_of_fd(const char *call, int fd)
{
    char room[1024];
    return active ? fate(call, path_of_fd(fd, room, sizeof room)) : NULL;
}

ssize_t write(int fd, const void *data, size_t size)
{
    if (active && cut_fd == fd) {
        cut_fd = -1;
        errno = number_of(strncmp(act, "cut-", 4) ? "ENOSPC" : act + 4);
        return -1;
    }
    const char *what = fate_of_fd("write", fd);
    if (what && !strcmp(what, "kill")) {
        syscall(SYS_write, fd, data, size / 2);
        die();
    }
    if (what && (!strcmp(what, "short") || !strncmp(what, "cut-", 4)) && size > 1) {
        cut_fd = strcmp(what, "short") ? fd : -1;
        return syscall(SYS_write, fd, data, size / 2);
    }
    if (what && fails(what))
        return -1;
    ssize_t done = syscall(SYS_write, fd, data, size);
    if (done < 0)
        return -1;
    after(what);
    return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    NEXT(ssize_t, "writev", int, const struct iovec *, int);
    const char *what = fate_of_fd("write", fd);
    if (what && fails(what))
        return -1;
    ssize_t done = real(fd, parts, count);
    after(what);
    return done;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t place)
{
    NEXT(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    const char *what = fate_of_fd("write", fd);
    if (what && fails(what))
        return -1;
    ssize_t done = real(fd, data, size, place);
    after(what);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t place)
{
    return pwrite64(fd, data, size, place);
}

ssize_t sendfile64(int target, int source, off64_t *place, size_t size)
{
    NEXT(ssize_t, "sendfile64", int, int, off64_t *, size_t);
    const char *what = fate_of_fd("write", target);
    if (what && fails(what))
        return -1;
    ssize_t done = real(target, source, place, size);
    after(what);
    return done;
}

int close(int fd)
{
    const char *what = NULL;
    if (cut_fd == fd)
        cut_fd = -1;
    if (active) {
        int flags = fcntl(fd, F_GETFL);
        if (flags >= 0 && (flags & O_ACCMODE) != O_RDONLY)
            what = fate_of_fd("close", fd);
    }
    if (what && !strcmp(what, "kill"))
        die();
    int done = syscall(SYS_close, fd);
    if (what && fails(what))
        return -1;
    after(what);
    return done;
}

#define ON_FD(type, symbol, call, SIGNATURE, ARGUMENTS) \
    type symbol SIGNATURE \
    { \
        static type (*real) SIGNATURE; \
        if (!real) \
            real = dlsym(RTLD_NEXT, #symbol); \
        const char *what = fate_of_fd(call, fd); \
        if (what && fails(what)) \
            return -1; \
        type done = real ARGUMENTS; \
        after(what); \
        return done; \
    }

ON_FD(int, fsync, "sync", (int fd), (fd))
ON_FD(int, fdatasync, "sync", (int fd), (fd))
ON_FD(int, ftruncate, "truncate", (int fd, off_t size), (fd, size))
ON_FD(int, ftruncate64, "truncate", (int fd, off64_t size), (fd, size))

#define ON_PATH(symbol, call, DIR, PATH, SIGNATURE, ARGUMENTS) \
    int symbol SIGNATURE \
    { \
        static int (*real) SIGNATURE; \
        if (!real) \
            real = dlsym(RTLD_NEXT, #symbol); \
        char room[2300]; \
        const char *what = active ? fate(call, path_of(DIR, PATH, room, sizeof room)) : NULL; \
        if (what && fails(what)) \
            return -1; \
        int done = real ARGUMENTS; \
        int number = errno; \
        after(what); \
        errno = number; \
        return done; \
    }

ON_PATH(rename, "rename", AT_FDCWD, to, (const char *from, const char *to), (from, to))
ON_PATH(renameat, "rename", there, to, (int here, const char *from, int there, const char *to), (here, from, there, to))
ON_PATH(renameat2, "rename", there, to, (int here, const char *from, int there, const char *to, unsigned flags),
        (here, from, there, to, flags))
ON_PATH(link, "link", AT_FDCWD, to, (const char *from, const char *to), (from, to))
ON_PATH(linkat, "link", there, to, (int here, const char *from, int there, const char *to, int flags),
        (here, from, there, to, flags))
ON_PATH(symlink, "link", AT_FDCWD, to, (const char *from, const char *to), (from, to))
ON_PATH(symlinkat, "link", there, to, (const char *from, int there, const char *to), (from, there, to))
ON_PATH(mkdir, "mkdir", AT_FDCWD, path, (const char *path, mode_t mode), (path, mode))
ON_PATH(mkdirat, "mkdir", dir, path, (int dir, const char *path, mode_t mode), (dir, path, mode))
ON_PATH(unlink, "unlink", AT_FDCWD, path, (const char *path), (path))
ON_PATH(unlinkat, "unlink", dir, path, (int dir, const char *path, int flags), (dir, path, flags))
ON_PATH(rmdir, "unlink", AT_FDCWD, path, (const char *path), (path))
