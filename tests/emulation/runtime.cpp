// A CUDA runtime for a machine without a GPU. Loaded before the CUDA build of PyTorch, it takes the place of libcudart,
// cuBLAS and the driver, and writes down what it is asked for: launches, copies, waits, captures and their replays.
//
// Nothing is executed on the device: memory holds what the host copied there, or nothing in particular. It is neither
// readable nor writable to the host, but by copies. What a capture forbids is refused, as by the real runtime.
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

struct CUgraph_st {
  std::vector<std::string> calls;
};
struct CUgraphExec_st {
  std::vector<std::string> calls;
};
struct CUstream_st {
  int number, device;
  CUgraph_st* graph;  // of the capture that it takes part in
};
struct CUevent_st {
  std::chrono::steady_clock::time_point time;
  CUgraph_st* graph;
};

namespace {

std::recursive_mutex mutex;
std::vector<std::string> calls;
std::unordered_map<const void*, const char*> kernels;
struct Block {
  size_t size;
  char* contents;  // the same memory, where it can be read
};
std::map<const char*, Block> allocated;
constexpr int kDevices = 2;
thread_local int device = 0;
CUstream_st legacy = {0, 0, nullptr};
struct {
  CUstream_st* stream;  // that began it; none: there is no capture
  cudaStreamCaptureMode mode;
  std::thread::id thread;
  bool invalidated;
} capture;
std::vector<CUstream_st*> streams;
thread_local cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
thread_local cudaError_t last = cudaSuccess;

cudaError_t failed(cudaError_t error) { return last = error; }

// Whether a capture forbids this thread what cannot be part of one.
bool forbidden() {
  const bool concerned = capture.mode == cudaStreamCaptureModeGlobal || std::this_thread::get_id() == capture.thread;
  if (!capture.stream || !concerned || mode == cudaStreamCaptureModeRelaxed) return false;
  return capture.invalidated = true;
}

CUstream_st& of(cudaStream_t stream) {
  const bool is_legacy = !stream || stream == cudaStreamLegacy || stream == cudaStreamPerThread;
  return is_legacy ? legacy : *stream;
}

// What is put on a stream: of a capture it becomes a part, and is done when that is replayed.
cudaError_t put(cudaStream_t stream, const std::string& what) {
  const std::lock_guard lock(mutex);
  CUstream_st& on = of(stream);
  if (&on == &legacy && forbidden()) return failed(cudaErrorStreamCaptureImplicit);
  if (&on != &legacy && on.device != device) return failed(cudaErrorInvalidResourceHandle);
  const std::string where = device ? " of device " + std::to_string(device) : "";
  const std::string line = what + " on stream " + std::to_string(on.number) + where;
  if (on.graph) on.graph->calls.push_back(line);
  calls.push_back((on.graph ? "captured: " : "") + line);
  return cudaSuccess;
}

// The host waits.
cudaError_t wait(const std::string& what) {
  const std::lock_guard lock(mutex);
  if (forbidden()) return failed(cudaErrorStreamCaptureUnsupported);
  calls.push_back("wait: " + what);
  return cudaSuccess;
}

// Where the contents of a place on the device are; null of any other place.
char* contents_of(const void* place) {
  const std::lock_guard lock(mutex);
  const auto* at = static_cast<const char*>(place);
  const auto after = allocated.upper_bound(at);
  if (after == allocated.begin()) return nullptr;
  const auto& [start, block] = *std::prev(after);
  return at < start + block.size ? block.contents + (at - start) : nullptr;
}

// The parameter of the kernel that makes noise keys, but for the pointer to them: the rest says where they come from.
std::string parameters(const std::string& name, void** given) {
  if (name.find("write_keys") == std::string::npos) return "";
  std::string numbers;
  for (int i = 0; i < 6; ++i)
    if (i != 4) numbers += " " + std::to_string(static_cast<const uint64_t*>(given[0])[i]);
  return numbers;
}

cudaError_t launch(const void* kernel, dim3 grid, dim3 block, void** given, cudaStream_t stream) {
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (!grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535 || !threads || threads > 1024)
    return failed(cudaErrorInvalidConfiguration);
  const auto found = kernels.find(kernel);
  if (found == kernels.end()) return failed(cudaErrorInvalidDeviceFunction);
  return put(stream, std::string("launch ") + found->second + parameters(found->second, given));
}

cudaError_t copy(void* to, const void* from, size_t bytes, cudaStream_t stream, bool waits) {
  char *const to_device = contents_of(to), *const from_device = contents_of(from);
  const char* const where = !to_device ? "to the host" : from_device ? "on the device" : "to the device";
  const std::string what = std::string("copy ") + where + ", " + std::to_string(bytes) + " bytes";
  const auto error = waits ? wait(what) : put(stream, what);
  if (error || of(stream).graph || (to_device && from_device)) return error;
  std::memcpy(to_device ? to_device : to, from_device ? from_device : from, bytes);
  return cudaSuccess;
}

}  // namespace

extern "C" {

// For the tests: what has been asked for since the last time, a line each.
const char* stand_in_calls() {
  static std::string text;
  const std::lock_guard lock(mutex);
  text.clear();
  for (const auto& line : calls) text += line + "\n";
  calls.clear();
  return text.c_str();
}

// Programs and kernels

void** __cudaRegisterFatBinary(void*) {
  static void* none;
  return &none;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  kernels[host] = name;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(host));
  return cudaSuccess;
}

thread_local struct {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
} configuration;
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  configuration = {grid, block, shared, stream};
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = configuration.grid, *block = configuration.block, *shared = configuration.shared;
  *static_cast<cudaStream_t*>(stream) = configuration.stream;
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** given, size_t, cudaStream_t stream) {
  return launch(kernel, grid, block, given, stream);
}
cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** given, size_t, cudaStream_t stream) {
  return launch(kernel, grid, block, given, stream);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** given) {
  return launch(kernel, config->gridDim, config->blockDim, given, config->stream);
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* about, const void*) {
  *about = {};
  about->maxThreadsPerBlock = 1024;
  about->numRegs = 32;
  about->binaryVersion = about->ptxVersion = 90;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, size_t, unsigned) {
  *blocks = 2;
  return cudaSuccess;
}
cudaError_t cudaGetSymbolAddress(void** place, const void*) {
  static char constants[1 << 16];
  *place = constants;
  return cudaSuccess;
}
cudaError_t cudaMemcpyToSymbol(const void*, const void*, size_t, size_t, cudaMemcpyKind) { return cudaSuccess; }

// Two devices, with the sizes of an H100

cudaError_t cudaGetDeviceCount(int* count) {
  *count = kDevices;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* current) {
  *current = device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int given) {
  if (given < 0 || given >= kDevices) return failed(cudaErrorInvalidDevice);
  device = given;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* about, int) {
  *about = {};
  std::strcpy(about->name, "stand-in without numbers");
  about->major = 9;
  about->multiProcessorCount = 132;
  about->warpSize = 32;
  about->totalGlobalMem = size_t(80) << 30;
  about->l2CacheSize = 50 << 20;
  about->maxThreadsPerBlock = about->maxThreadsDim[0] = about->maxThreadsDim[1] = 1024;
  about->maxThreadsDim[2] = 64;
  about->maxGridSize[0] = 0x7fffffff;
  about->maxGridSize[1] = about->maxGridSize[2] = 65535;
  about->maxThreadsPerMultiProcessor = 2048;
  about->maxBlocksPerMultiProcessor = 32;
  about->regsPerBlock = about->regsPerMultiprocessor = 65536;
  about->sharedMemPerBlock = 48 << 10;
  about->sharedMemPerMultiprocessor = 228 << 10;
  about->sharedMemPerBlockOptin = 227 << 10;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  switch (which) {
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 227 << 10; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 48 << 10; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    default: *value = 0;
  }
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* id, int size, int) {
  std::strncpy(id, "0000:00:00.0", size);
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return wait("for the device"); }
cudaError_t cudaGetLastError() {
  const cudaError_t error = last;
  last = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() { return last; }

// Memory

cudaError_t cudaMalloc(void** place, size_t bytes) {
  const std::lock_guard lock(mutex);
  if (forbidden()) return failed(cudaErrorStreamCaptureUnsupported);
  const int file = memfd_create("device", 0);
  void* contents = MAP_FAILED;
  if (file >= 0 && !ftruncate(file, bytes)) {
    contents = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
    *place = mmap(nullptr, bytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE, file, 0);
  }
  close(file);
  if (contents == MAP_FAILED || *place == MAP_FAILED) return failed(cudaErrorMemoryAllocation);
  allocated[static_cast<char*>(*place)] = {bytes, static_cast<char*>(contents)};
  return cudaSuccess;
}
cudaError_t cudaFree(void* place) {
  const std::lock_guard lock(mutex);
  if (const auto found = allocated.find(static_cast<char*>(place)); found != allocated.end()) {
    munmap(place, found->second.size);
    munmap(found->second.contents, found->second.size);
    allocated.erase(found);
  }
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** place, size_t bytes, unsigned) {
  return (*place = std::malloc(bytes)) ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}
cudaError_t cudaFreeHost(void* place) {
  std::free(place);
  return cudaSuccess;
}
cudaError_t cudaHostRegister(void*, size_t, unsigned) { return cudaSuccess; }
cudaError_t cudaHostUnregister(void*) { return cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = *total = size_t(80) << 30;
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* about, const void* place) {
  *about = {};
  about->type = contents_of(place) ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
  about->devicePointer = const_cast<void*>(place);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  return copy(to, from, bytes, nullptr, true);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return copy(to, from, bytes, stream, false);
}
cudaError_t cudaMemset(void*, int, size_t) { return put(nullptr, "memset"); }
cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t stream) { return put(stream, "memset"); }

// Streams and events

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  const std::lock_guard lock(mutex);
  streams.push_back(*stream = new CUstream_st{int(streams.size()) + 1, device, nullptr});
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) {
  *priority = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0, *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t) {
  return forbidden() ? failed(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return wait("for stream " + std::to_string(of(stream).number));
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const std::lock_guard lock(mutex);
  if (!event->graph) return cudaSuccess;
  if (!capture.stream || event->graph != capture.stream->graph) return failed(cudaErrorCapturedEvent);
  if (&of(stream) == &legacy) {
    capture.invalidated = true;
    return failed(cudaErrorStreamCaptureImplicit);
  }
  stream->graph = event->graph;  // it takes part in the capture from here on
  return cudaSuccess;
}
cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t callback, void* data, unsigned) {
  callback(stream, cudaSuccess, data);
  return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t function, void* data) {
  function(data);
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st{};
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  *event = {std::chrono::steady_clock::now(), of(stream).graph};
  return cudaSuccess;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  return cudaEventRecord(event, stream);
}
cudaError_t cudaEventQuery(cudaEvent_t) {
  return forbidden() ? failed(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return wait("for an event"); }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t from, cudaEvent_t to) {
  *ms = std::chrono::duration<float, std::milli>(to->time - from->time).count();
  return cudaSuccess;
}

// Captures

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* given) {
  std::swap(mode, *given);
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode given) {
  const std::lock_guard lock(mutex);
  if (capture.stream || &of(stream) == &legacy) return failed(cudaErrorStreamCaptureUnsupported);
  stream->graph = new CUgraph_st;
  capture = {stream, given, std::this_thread::get_id(), false};
  calls.push_back("capture begins on stream " + std::to_string(stream->number));
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard lock(mutex);
  if (stream != capture.stream) return failed(cudaErrorIllegalState);
  *graph = capture.invalidated ? nullptr : stream->graph;
  for (CUstream_st* each : streams) each->graph = nullptr;
  capture.stream = nullptr;
  calls.push_back("capture ends");
  return capture.invalidated ? failed(cudaErrorStreamCaptureInvalidated) : cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const std::lock_guard lock(mutex);
  if (&of(stream) == &legacy && forbidden()) return failed(cudaErrorStreamCaptureImplicit);
  *status = of(stream).graph ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status, unsigned long long* id,
                                     cudaGraph_t* graph, const cudaGraphNode_t**, const cudaGraphEdgeData**,
                                     size_t* dependencies) {
  if (const auto error = cudaStreamIsCapturing(stream, status)) return error;
  if (id) *id = reinterpret_cast<uintptr_t>(of(stream).graph);
  if (graph) *graph = of(stream).graph;
  if (dependencies) *dependencies = 0;
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
  *count = graph->calls.size();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new CUgraphExec_st{graph->calls};
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags) {
  return cudaGraphInstantiateWithFlags(executable, graph, flags);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
  const std::lock_guard lock(mutex);
  for (const auto& line : executable->calls) calls.push_back("replayed: " + line);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

// The driver, as far as PyTorch asks for it: there is a context, and what it compiles at run time is launched.

int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) {
  *flags = 0, *active = 1;
  return 0;
}
int cuCtxGetCurrent(void** context) {
  *context = &legacy;
  return 0;
}
int cuModuleLoadData(void** module, const void*) {
  *module = &legacy;
  return 0;
}
int cuModuleGetFunction(void** function, void*, const char*) {
  *function = &legacy;
  return 0;
}
int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, cudaStream_t stream) {
  return put(stream, "launch what was compiled at run time");
}
#define NOT_SUPPORTED(name) \
  int name() { return 801; }
NOT_SUPPORTED(cuCtxSetCurrent)
NOT_SUPPORTED(cuDeviceGet)
NOT_SUPPORTED(cuDeviceGetAttribute)
NOT_SUPPORTED(cuDevicePrimaryCtxRetain)
NOT_SUPPORTED(cuFuncGetAttribute)
NOT_SUPPORTED(cuFuncSetAttribute)
NOT_SUPPORTED(cuFuncSetCacheConfig)
NOT_SUPPORTED(cuGetErrorString)
NOT_SUPPORTED(cuLaunchCooperativeKernel)
NOT_SUPPORTED(cuLinkAddData_v2)
NOT_SUPPORTED(cuLinkComplete)
NOT_SUPPORTED(cuLinkCreate_v2)
NOT_SUPPORTED(cuModuleLoad)
NOT_SUPPORTED(cuModuleLoadDataEx)
NOT_SUPPORTED(cuModuleUnload)
NOT_SUPPORTED(cuOccupancyMaxActiveBlocksPerMultiprocessor)
NOT_SUPPORTED(cuPointerGetAttribute)
NOT_SUPPORTED(cuTensorMapEncodeTiled)
NOT_SUPPORTED(not_supported)
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  *function = dlsym(RTLD_DEFAULT, name);
  if (!*function) *function = reinterpret_cast<void*>(not_supported);
  if (result) *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

// cuBLAS: a product of matrices is one launch.

struct Blas {
  cudaStream_t stream;
};
int cublasCreate_v2(Blas** handle) {
  *handle = new Blas{};
  return 0;
}
int cublasDestroy_v2(Blas* handle) {
  delete handle;
  return 0;
}
int cublasSetStream_v2(Blas* handle, cudaStream_t stream) {
  handle->stream = stream;
  return 0;
}
int cublasSetWorkspace_v2(Blas*, void*, size_t) { return 0; }
int cublasSetMathMode(Blas*, int) { return 0; }
int cublasGetMathMode(Blas*, int* mode) { return *mode = 0; }
int cublasSetPointerMode_v2(Blas*, int) { return 0; }
int cublasGetPointerMode_v2(Blas*, int* mode) { return *mode = 0; }
#define PRODUCT(name) \
  int name(Blas* handle) { return put(handle->stream, "launch " #name) ? 14 : 0; }
PRODUCT(cublasSgemm_v2)
PRODUCT(cublasDgemm_v2)
PRODUCT(cublasGemmEx)
PRODUCT(cublasSgemmEx)
PRODUCT(cublasSgemmStridedBatched)
PRODUCT(cublasDgemmStridedBatched)
PRODUCT(cublasGemmStridedBatchedEx)
PRODUCT(cublasSgemv_v2)
PRODUCT(cublasDgemv_v2)
PRODUCT(cublasSdot_v2)
PRODUCT(cublasDdot_v2)
PRODUCT(cublasDotEx)
#define DESCRIPTION(name)                          \
  int cublasLt##name##Create(void** description) { \
    *description = std::malloc(1);                 \
    return 0;                                      \
  }                                                \
  int cublasLt##name##Destroy(void* description) { \
    std::free(description);                        \
    return 0;                                      \
  }                                                \
  int cublasLt##name##SetAttribute() { return 0; }
DESCRIPTION(MatmulDesc)
DESCRIPTION(MatmulPreference)
DESCRIPTION(MatrixLayout)
int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, void*, int* count) {
  *count = 1;
  return 0;
}
int cublasLtMatmul(void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*,
                   size_t, cudaStream_t stream) {
  return put(stream, "launch cublasLtMatmul") ? 14 : 0;
}

}  // extern "C"
