/* NVML from a file: as much of libnvidia-ml.so.1 as pynvml needs to tell whose processes are on which device.
 *
 * The file is named by NVML_STATE and read anew at every call, so that a test can change it while a program runs:
 *
 *   init CODE                                   what nvmlInit returns (0: success)
 *   device UUID TOTAL_MIB USED_MIB NAME...      a GPU; TOTAL_MIB "none": its memory is not known
 *   mig UUID TOTAL_MIB USED_MIB NAME...         an instance of the GPU before it, which MIG splits
 *   process UUID compute|graphics|mps PID MIB   MIB "none": not available
 *   utilisation UUID PERCENT                    of time in which it computed; without it: not supported
 *   error FUNCTION UUID CODE                    what a function returns for a device ("*": for any)
 *
 * The structures and codes are those of nvml.h, version 12.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX 64
#define MIB (1ULL << 20)
#define NOT_AVAILABLE (~0ULL)

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, UNKNOWN = 999 };

typedef struct { char uuid[96], name[96]; unsigned long long total, used; int index, is_mig, has_memory, percent; } Unit;
typedef struct { char uuid[96], kind[16]; unsigned pid; unsigned long long used; } Listed;
typedef struct { char function[64], uuid[96]; int code; } Fault;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } ProcessInfo;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;
typedef struct { unsigned gpu, memory; } Utilization;

static Unit units[MAX];
static Listed listed[MAX];
static Fault faults[MAX];
static int unit_count, listed_count, fault_count, init_code;

static unsigned long long amount(const char *text) {
    return strcmp(text, "none") ? strtoull(text, NULL, 10) * MIB : NOT_AVAILABLE;
}

static int load(void) {
    const char *path = getenv("NVML_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512], total[32], used[32];
    char uuid[96];
    unsigned percent;
    int gpus = 0;
    if (!file) return UNKNOWN;
    unit_count = listed_count = fault_count = init_code = 0;
    while (fgets(line, sizeof line, file) && unit_count < MAX && listed_count < MAX && fault_count < MAX) {
        Unit *unit = &units[unit_count];
        Listed *entry = &listed[listed_count];
        Fault *fault = &faults[fault_count];
        int is_mig = !strncmp(line, "mig ", 4);
        if (sscanf(line, "init %d", &init_code) == 1) continue;
        if (sscanf(line, "utilisation %95s %u", uuid, &percent) == 2) {
            for (int i = 0; i < unit_count; i++)
                if (!strcmp(units[i].uuid, uuid)) units[i].percent = (int)percent;
            continue;
        }
        if (sscanf(line, is_mig ? "mig %95s %31s %31s %95[^\n]" : "device %95s %31s %31s %95[^\n]",
                   unit->uuid, total, used, unit->name) == 4) {
            unit->is_mig = is_mig;
            unit->index = is_mig ? gpus - 1 : gpus++;
            unit->has_memory = amount(total) != NOT_AVAILABLE;
            unit->total = amount(total);
            unit->used = amount(used);
            unit->percent = -1;
            unit_count++;
        } else if (sscanf(line, "process %95s %15s %u %31s", entry->uuid, entry->kind, &entry->pid, used) == 4) {
            entry->used = amount(used);
            listed_count++;
        } else if (sscanf(line, "error %63s %95s %d", fault->function, fault->uuid, &fault->code) == 3) {
            fault_count++;
        }
    }
    fclose(file);
    return SUCCESS;
}

static int fault_of(const char *function, const char *uuid) {
    for (int i = 0; i < fault_count; i++)
        if (!strcmp(faults[i].function, function) && (!strcmp(faults[i].uuid, "*") || !strcmp(faults[i].uuid, uuid)))
            return faults[i].code;
    return SUCCESS;
}

/* A handle is the number of its line, from 1; what it points to is nobody's business but ours. */
static int unit_of(const char *function, void *handle, Unit **unit) {
    int code = load(), number = (int)(size_t)handle;
    if (code) return code;
    if (number < 1 || number > unit_count) return INVALID_ARGUMENT;
    *unit = &units[number - 1];
    return fault_of(function, (*unit)->uuid);
}

static int copy(const char *text, char *buffer, unsigned length) {
    if (strlen(text) >= length) return INSUFFICIENT_SIZE;
    strcpy(buffer, text);
    return SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; int code = load(); return code ? code : init_code; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "an error of the test's"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    int code = load();
    *count = 0;
    for (int i = 0; i < unit_count; i++) *count += !units[i].is_mig;
    return code ? code : fault_of("nvmlDeviceGetCount", "*");
}

static int handle_of(const char *function, int index, int instance, void **handle) {
    int code = load();
    if (code) return code;
    for (int i = 0; i < unit_count; i++)
        if (units[i].index == index && (instance < 0 ? !units[i].is_mig : units[i].is_mig && instance-- == 0)) {
            *handle = (void *)(size_t)(i + 1);
            return fault_of(function, units[i].uuid);
        }
    return instance < 0 ? INVALID_ARGUMENT : NOT_FOUND;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    return handle_of("nvmlDeviceGetHandleByIndex", (int)index, -1, handle);
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *gpu, unsigned number, void **handle) {
    Unit *unit;
    int code = unit_of("nvmlDeviceGetMigDeviceHandleByIndex", gpu, &unit);
    return code ? code : handle_of("nvmlDeviceGetMigDeviceHandleByIndex", unit->index, (int)number, handle);
}

int nvmlDeviceGetMigMode(void *gpu, unsigned *current, unsigned *pending) {
    Unit *unit;
    int code = unit_of("nvmlDeviceGetMigMode", gpu, &unit);
    if (code) return code;
    if (unit->is_mig) return NOT_SUPPORTED;
    *current = 0;
    for (int i = 0; i < unit_count; i++) *current |= units[i].is_mig && units[i].index == unit->index;
    *pending = *current;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(void *gpu, unsigned *count) {
    Unit *unit;
    *count = 7;
    return unit_of("nvmlDeviceGetMaxMigDeviceCount", gpu, &unit);
}

int nvmlDeviceGetUUID(void *handle, char *buffer, unsigned length) {
    Unit *unit;
    int code = unit_of("nvmlDeviceGetUUID", handle, &unit);
    return code ? code : copy(unit->uuid, buffer, length);
}

int nvmlDeviceGetName(void *handle, char *buffer, unsigned length) {
    Unit *unit;
    int code = unit_of("nvmlDeviceGetName", handle, &unit);
    return code ? code : copy(unit->name, buffer, length);
}

int nvmlDeviceGetMemoryInfo(void *handle, Memory *memory) {
    Unit *unit;
    int code = unit_of("nvmlDeviceGetMemoryInfo", handle, &unit);
    if (code) return code;
    if (!unit->has_memory) return NOT_SUPPORTED;
    *memory = (Memory){unit->total, unit->total - unit->used, unit->used};
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(void *handle, MemoryV2 *memory) {
    Unit *unit;
    int code = unit_of("nvmlDeviceGetMemoryInfo_v2", handle, &unit);
    if (code) return code;
    if (!unit->has_memory) return NOT_SUPPORTED;
    *memory = (MemoryV2){memory->version, unit->total, 0, unit->total - unit->used, unit->used};
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *handle, Utilization *utilization) {
    Unit *unit;
    int code = unit_of("nvmlDeviceGetUtilizationRates", handle, &unit);
    if (code) return code;
    if (unit->percent < 0) return NOT_SUPPORTED;
    *utilization = (Utilization){(unsigned)unit->percent, 0};
    return SUCCESS;
}

static int processes(const char *function, const char *kind, void *handle, unsigned *count, ProcessInfo *infos) {
    Unit *unit;
    unsigned room = *count, found = 0;
    int code = unit_of(function, handle, &unit);
    if (code) return code;
    for (int i = 0; i < listed_count; i++) {
        if (strcmp(listed[i].kind, kind) || strcmp(listed[i].uuid, unit->uuid)) continue;
        if (infos && found < room) infos[found] = (ProcessInfo){listed[i].pid, listed[i].used, ~0U, ~0U};
        found++;
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, ProcessInfo *infos) {
    return processes("nvmlDeviceGetComputeRunningProcesses", "compute", handle, count, infos);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, ProcessInfo *infos) {
    return processes("nvmlDeviceGetGraphicsRunningProcesses", "graphics", handle, count, infos);
}

int nvmlDeviceGetMPSComputeRunningProcesses_v3(void *handle, unsigned *count, ProcessInfo *infos) {
    return processes("nvmlDeviceGetMPSComputeRunningProcesses", "mps", handle, count, infos);
}

int nvmlSystemGetDriverVersion(char *buffer, unsigned length) {
    snprintf(buffer, length, "580.65.06");
    return SUCCESS;
}
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 13000; return SUCCESS; }
