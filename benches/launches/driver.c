/* Stands for CUDA's driver and libraries where there is no device: gives out the host's memory, computes nothing, and
   writes how often each kernel would have been launched into the file that LAUNCHES names. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { char *name; long launches; } Kernel;
static Kernel kernels[4096]; /* candle has some hundred */
static int known;
static pthread_mutex_t adding = PTHREAD_MUTEX_INITIALIZER;

static Kernel *kernel(const char *name) {
    pthread_mutex_lock(&adding);
    int i = 0;
    while (i < known && strcmp(kernels[i].name, name)) i++;
    if (i == sizeof kernels / sizeof *kernels) abort();
    if (i == known) kernels[known++].name = strdup(name);
    pthread_mutex_unlock(&adding);
    return &kernels[i];
}

static int launch(Kernel *kernel) {
    __sync_fetch_and_add(&kernel->launches, 1);
    return 0;
}

#define COUNTED(name) static Kernel *one; if (!one) one = kernel(name); launch(one)

__attribute__((destructor)) static void report(void) {
    FILE *file = getenv("LAUNCHES") ? fopen(getenv("LAUNCHES"), "w") : NULL;
    if (!file) return;
    for (int i = 0; i < known; i++) fprintf(file, "%ld\t%s\n", kernels[i].launches, kernels[i].name);
    fclose(file);
}

/* what is asked for and looked at by the library alone */
static int handle(void **out) { *out = malloc(8); return 0; }
#define HANDLE(name) int name(void **out) { return handle(out); }
#define NOTHING(name) int name(void) { return 0; }
#define REFUSED(name) int name(void) { return 1; }

NOTHING(cuInit) NOTHING(cuCtxSetCurrent) NOTHING(cuCtxSynchronize) NOTHING(cuCtxDestroy_v2)
NOTHING(cuDevicePrimaryCtxRelease_v2) NOTHING(cuEventDestroy_v2) NOTHING(cuEventRecord) NOTHING(cuEventSynchronize)
NOTHING(cuStreamDestroy_v2) NOTHING(cuStreamSynchronize) NOTHING(cuStreamWaitEvent) NOTHING(cuFuncSetAttribute)
NOTHING(cuModuleUnload) REFUSED(cuMemcpyPeerAsync)
HANDLE(cuEventCreate) HANDLE(cuStreamCreate) HANDLE(cuModuleLoad) HANDLE(cuModuleLoadData)

int cuGetErrorString(int error, const char **text) { *text = "no device"; return 0; }
int cuDeviceGet(int *device, int number) { *device = 0; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &known; return 0; }
int cuCtxGetCurrent(void **context) { *context = &known; return 0; }
int cuStreamIsCapturing(void *stream, int *is) { *is = 0; return 0; }

/* an H100, as far as it is asked about */
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case 1: *value = 1024; break; /* threads per block */
    case 10: *value = 32; break;  /* of a warp */
    case 16: *value = 132; break; /* multiprocessors */
    case 75: *value = 9; break;   /* compute capability 9.0 */
    case 76: *value = 0; break;
    case 115: *value = 1; break;  /* memory pools */
    default: *value = 65536;
    }
    return 0;
}

static int allocate(uint64_t *place, size_t bytes) { *place = (uint64_t)calloc(1, bytes + 64); return 0; }
int cuMemAllocAsync(uint64_t *place, size_t bytes, void *stream) { return allocate(place, bytes); }
int cuMemAlloc_v2(uint64_t *place, size_t bytes) { return allocate(place, bytes); }
int cuMemHostAlloc(void **place, size_t bytes, unsigned flags) { *place = malloc(bytes); return 0; }
int cuMemFreeAsync(uint64_t place, void *stream) { free((void *)place); return 0; }
int cuMemFree_v2(uint64_t place) { free((void *)place); return 0; }
int cuMemFreeHost(void *place) { free(place); return 0; }

int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) {
    COUNTED("copy on the device");
    memmove((void *)to, (void *)from, bytes);
    return 0;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    COUNTED("copy to the host");
    memcpy(to, (void *)from, bytes);
    return 0;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    COUNTED("copy from the host");
    memcpy((void *)to, from, bytes);
    return 0;
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *stream) {
    COUNTED("set memory");
    memset((void *)to, value, bytes);
    return 0;
}

int cuModuleGetFunction(void **function, void *module, const char *name) { *function = kernel(name); return 0; }
int cuLaunchKernel(void *function) { return launch(function); }

HANDLE(nvrtcCreateProgram) NOTHING(nvrtcDestroyProgram) NOTHING(nvrtcCompileProgram)
int nvrtcGetPTXSize(void *program, size_t *bytes) { *bytes = 1; return 0; }
int nvrtcGetPTX(void *program, char *ptx) { *ptx = 0; return 0; }
int nvrtcGetProgramLogSize(void *program, size_t *bytes) { *bytes = 1; return 0; }
int nvrtcGetProgramLog(void *program, char *log) { *log = 0; return 0; }

/* a product counts once, though a library may take two kernels for one */
HANDLE(cublasCreate_v2) NOTHING(cublasDestroy_v2) NOTHING(cublasSetStream_v2) REFUSED(cublasDgemmStridedBatched)
int cublasGemmStridedBatchedEx(void) { COUNTED("product by cuBLAS"); return 0; }
HANDLE(cublasLtCreate) HANDLE(cublasLtMatmulDescCreate) HANDLE(cublasLtMatmulPreferenceCreate)
HANDLE(cublasLtMatrixLayoutCreate) NOTHING(cublasLtMatmulDescSetAttribute) NOTHING(cublasLtMatmulPreferenceDestroy)
NOTHING(cublasLtMatmulPreferenceSetAttribute)
int cublasLtMatmul(void) { COUNTED("product by cuBLASLt"); return 0; }
int cublasLtMatmulAlgoGetHeuristic(void *handle, void *description, void *a, void *b, void *c, void *d,
                                   void *preference, int asked, void *results, int *found) {
    memset(results, 0, 96); /* one result: it works */
    *found = 1;
    return 0;
}

HANDLE(curandCreateGenerator) NOTHING(curandDestroyGenerator) NOTHING(curandSetPseudoRandomGeneratorSeed)
NOTHING(curandSetStream)
