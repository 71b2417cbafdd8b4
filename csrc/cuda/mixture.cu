// Mixtures of Gaussians (formulas/mixture.h). A block works on tiles of rows and components at a time: it computes the
// exponents of all pairs in a tile, a few in each thread, from dimensions that are staged in shared memory. Each result
// belongs to one block, which goes through its tiles in order: nothing is added up by atomics.
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/scalar.h"
#include "cuda/tiling.h"
#include "formulas/mixture.h"

namespace aevb::device {
namespace {

// A thread has kRowsEach rows and kPanels components of a tile: those that are kAcross or a panel apart.
constexpr int kAcross = 16, kThreads = kAcross * kAcross, kRowsEach = 2, kPanels = 4;
constexpr int kTileRows = kAcross * kRowsEach, kTileComponents = kPanels * kPanel;
constexpr int kDepth = 16;       // dimensions that are staged at a time
constexpr int kDimsOfRows = 64;  // for which a block has the gradients of its rows
constexpr int kDimsOfComponents = 32;
static_assert(kPanel == kAcross);

template <class T>
struct Staged {
  T z[kDepth][kTileRows + 1];  // a column more, so that threads of a warp read from different banks
  T mu[kDepth][kTileComponents], inverse_std[kDepth][kTileComponents];
};

// A problem of a call, in a block.
template <class T>
class Problem {
 public:
  using N = Scalar<T>;

  __device__ Problem(const MixtureCall& call, int64_t number)
      : call_(call), number_(number), column(threadIdx.x % kAcross), row(threadIdx.x / kAcross) {}

  // Dimensions [d, d + count) of rows [first, end) and of the components of a tile. What is missing of the last tile is
  // 0, with sigma = 1.
  __device__ void stage(Staged<T>& to, int64_t first, int64_t end, int64_t tile, int64_t d, int count) const {
    for (int i = threadIdx.x; i < count * kTileRows; i += kThreads) {
      const int r = i / count, depth = i % count;
      const bool there = first + r < end;
      to.z[depth][r] = there ? z()[((first + r) * call_.problems + number_) * call_.event + d + depth] : T(0);
    }
    for (int i = threadIdx.x; i < count * kTileComponents; i += kThreads) {
      const int depth = i / kTileComponents, k = i % kTileComponents;
      const int64_t panel = tile * kPanels + k / kPanel;
      const bool there = panel < panels();
      const int64_t at = at_panel(panel) + (d + depth) * kPanel + k % kPanel;
      to.mu[depth][k] = there ? static_cast<const T*>(call_.mu)[at] : T(0);
      to.inverse_std[depth][k] = there ? static_cast<const T*>(call_.inverse_std)[at] : T(1);
    }
  }

  // The exponents of the thread's pairs.
  __device__ void exponents(Staged<T>& staged, int64_t first, int64_t end, int64_t tile,
                            N (&a)[kRowsEach][kPanels]) const {
    N q[kRowsEach][kPanels];
#pragma unroll
    for (int i = 0; i < kRowsEach; ++i)
#pragma unroll
      for (int j = 0; j < kPanels; ++j) q[i][j] = N(0);
    for (int64_t d = 0; d < call_.event; d += kDepth) {
      const int count = depth_at(d, call_.event);
      __syncthreads();
      stage(staged, first, end, tile, d, count);
      __syncthreads();
      for (int depth = 0; depth < count; ++depth)
#pragma unroll
        for (int i = 0; i < kRowsEach; ++i)
#pragma unroll
          for (int j = 0; j < kPanels; ++j) {
            const N t = standardised(staged, i, j, depth);
            q[i][j] = fma(t, t, q[i][j]);
          }
    }
#pragma unroll
    for (int j = 0; j < kPanels; ++j) {
      const int64_t panel = tile * kPanels + j;
      N log_weight(-std::numeric_limits<T>::infinity());
      if (panel < panels())
        log_weight.v = static_cast<const T*>(call_.log_weight)[(number_ * panels() + panel) * kPanel + column];
#pragma unroll
      for (int i = 0; i < kRowsEach; ++i) a[i][j] = fma(N(-0.5), q[i][j], log_weight);
    }
  }

  // Of its row number i and panel number j, at a staged dimension.
  __device__ N standardised(const Staged<T>& staged, int i, int j, int depth) const {
    const int k = j * kPanel + column;
    return standardised_by(N(staged.z[depth][row + i * kAcross]), N(staged.mu[depth][k]),
                           N(staged.inverse_std[depth][k]));
  }

  __device__ N inverse_std(const Staged<T>& staged, int j, int depth) const {
    return N(staged.inverse_std[depth][j * kPanel + column]);
  }

  // The weights of the thread's pairs.
  __device__ void weights(Staged<T>& staged, int64_t first, int64_t end, int64_t tile,
                          N (&w)[kRowsEach][kPanels]) const {
    exponents(staged, first, end, tile, w);
#pragma unroll
    for (int i = 0; i < kRowsEach; ++i) {
      const int64_t r = first + row + i * kAcross;
      T log_density = std::numeric_limits<T>::infinity(), cotangent = 0;
      if (r < end) {
        log_density = static_cast<const T*>(call_.log_density)[r * call_.problems + number_];
        cotangent = static_cast<const T*>(call_.cotangent)[r * call_.problems + number_];
        without_infinite_density(log_density, cotangent);
      }
#pragma unroll
      for (int j = 0; j < kPanels; ++j) w[i][j] = weight_of(w[i][j], N(log_density), N(cotangent));
    }
  }

  __device__ const T* z() const { return static_cast<const T*>(call_.z); }
  __device__ int64_t panels() const { return call_.components / kPanel; }
  __device__ int64_t tiles() const { return (panels() + kPanels - 1) / kPanels; }
  __device__ int64_t at_panel(int64_t panel) const { return (number_ * panels() + panel) * call_.event * kPanel; }
  __device__ static int depth_at(int64_t d, int64_t end) { return end - d < kDepth ? int(end - d) : kDepth; }

 private:
  const MixtureCall& call_;
  const int64_t number_;

 public:
  const int column, row;  // the thread's place in a tile
};

AEVB_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
AEVB_INLINE int64_t row_tiles(const MixtureCall& call) { return (call.rows + kTileRows - 1) / kTileRows; }
AEVB_INLINE int64_t component_tiles(const MixtureCall& call) {
  return (call.components + kTileComponents - 1) / kTileComponents;
}
// How many blocks share the dimensions of a tile.
AEVB_INLINE int64_t shares(const MixtureCall& call, int dims) { return (call.event + dims - 1) / dims; }

// A block has a tile of rows of a problem, and then another one.
template <class T>
__global__ void __launch_bounds__(kThreads) mixture_forward(const __grid_constant__ MixtureCall call) {
  using N = Scalar<T>;
  __shared__ Staged<T> staged;
  __shared__ T most[kTileRows][kAcross + 1], sum[kTileRows][kAcross + 1];
  const int64_t tiles = row_tiles(call);
  for (int64_t item = blockIdx.x; item < tiles * call.problems; item += gridDim.x) {
    const int64_t number = item / tiles;
    const int64_t first = item % tiles * kTileRows, end = smaller(first + kTileRows, call.rows);
    const Problem<T> problem(call, number);
    LogSum<N> own[kRowsEach];
    for (int64_t tile = 0; tile < problem.tiles(); ++tile) {
      N a[kRowsEach][kPanels];
      problem.exponents(staged, first, end, tile, a);
#pragma unroll
      for (int i = 0; i < kRowsEach; ++i)
#pragma unroll
        for (int j = 0; j < kPanels; ++j) own[i].add(a[i][j]);
    }
#pragma unroll
    for (int i = 0; i < kRowsEach; ++i) {
      most[problem.row + i * kAcross][problem.column] = own[i].most.v;
      sum[problem.row + i * kAcross][problem.column] = own[i].sum.v;
    }
    __syncthreads();
    if (const int64_t r = threadIdx.x; r < kTileRows && first + r < end) {
      N base(most[r][0]), total(0);
      for (int k = 1; k < kAcross; ++k) base = select(N(most[r][k]) > base, N(most[r][k]), base);
      for (int k = 0; k < kAcross; ++k) {
        LogSum<N> one;
        one.most.v = most[r][k], one.sum.v = sum[r][k];
        total = total + one.relative_to(base);
      }
      static_cast<T*>(call.log_density)[(first + r) * call.problems + number] = (base + log(total)).v;
    }
  }
}

// The sums of what the threads of a tile have, over its rows or its columns, in order: `own` becomes that of the
// thread's column or row. Every thread of the block calls this.
template <bool over_rows, class T>
__device__ __forceinline__ void add_up(Scalar<T>& own, T (&shared)[kAcross][kAcross + 1]) {
  const int column = threadIdx.x % kAcross, row = threadIdx.x / kAcross;
  __syncthreads();
  shared[row][column] = own.v;
  __syncthreads();
  own = Scalar<T>(0);
  for (int i = 0; i < kAcross; ++i) own = own + Scalar<T>(over_rows ? shared[i][column] : shared[row][i]);
}

// A block has the gradients of a tile of rows of a problem, for some of its dimensions.
template <class T>
__global__ void __launch_bounds__(kThreads) mixture_of_rows(const __grid_constant__ MixtureCall call) {
  using N = Scalar<T>;
  constexpr int results = kTileRows * kDepth / kThreads;  // of a thread, each time that dimensions are staged
  __shared__ Staged<T> staged;
  __shared__ T of_pairs[kTileComponents][kTileRows + 1];
  const int64_t tiles = row_tiles(call), dims = shares(call, kDimsOfRows);
  for (int64_t item = blockIdx.x; item < tiles * dims * call.problems; item += gridDim.x) {
    const int64_t number = item / tiles / dims;
    const int64_t first = item % tiles * kTileRows, end = smaller(first + kTileRows, call.rows);
    const int64_t first_dim = item / tiles % dims * kDimsOfRows;
    const int64_t end_dim = smaller(first_dim + kDimsOfRows, call.event);
    const Problem<T> problem(call, number);
    N minus_dz[kDimsOfRows / kDepth][results];
    for (auto& some : minus_dz)
      for (N& each : some) each = N(0);
    for (int64_t tile = 0; tile < problem.tiles(); ++tile) {
      N w[kRowsEach][kPanels];
      problem.weights(staged, first, end, tile, w);
#pragma unroll
      for (int i = 0; i < kRowsEach; ++i)
#pragma unroll
        for (int j = 0; j < kPanels; ++j) of_pairs[j * kPanel + problem.column][problem.row + i * kAcross] = w[i][j].v;
#pragma unroll
      for (int s = 0; s < kDimsOfRows / kDepth; ++s) {
        const int64_t d = first_dim + s * kDepth;
        if (d >= end_dim) break;
        const int count = problem.depth_at(d, end_dim);
        __syncthreads();
        problem.stage(staged, first, end, tile, d, count);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < results; ++i) {
          const int r = threadIdx.x % kTileRows, depth = threadIdx.x / kTileRows + i * (kThreads / kTileRows);
          if (depth >= count) break;
          N dmu(0), dv(0);
          for (int k = 0; k < kTileComponents; ++k) {
            const N inverse_std(staged.inverse_std[depth][k]);
            const N t = standardised_by(N(staged.z[depth][r]), N(staged.mu[depth][k]), inverse_std);
            add_gradients<true>(N(of_pairs[k][r]), t, inverse_std, minus_dz[s][i], dmu, dv);
          }
        }
      }
    }
    // Through shared memory, so that neighbours write neighbours.
#pragma unroll
    for (int s = 0; s < kDimsOfRows / kDepth; ++s) {
      const int64_t d = first_dim + s * kDepth;
      if (d >= end_dim) break;
      const int count = problem.depth_at(d, end_dim);
      __syncthreads();
#pragma unroll
      for (int i = 0; i < results; ++i)
        staged.z[threadIdx.x / kTileRows + i * (kThreads / kTileRows)][threadIdx.x % kTileRows] = -minus_dz[s][i].v;
      __syncthreads();
      for (int i = threadIdx.x; i < kTileRows * count; i += kThreads) {
        const int r = i / count, depth = i % count;
        if (first + r < end)
          static_cast<T*>(call.dz)[((first + r) * call.problems + number) * call.event + d + depth] =
              staged.z[depth][r];
      }
    }
  }
}

// A block has the sums of a part's rows for a tile of components of a problem, for some of its dimensions.
template <class T>
__global__ void __launch_bounds__(kThreads) mixture_of_components(const __grid_constant__ MixtureCall call) {
  using N = Scalar<T>;
  constexpr int results = kTileComponents * kDepth / kThreads;
  __shared__ Staged<T> staged;
  __shared__ T of_pairs[kTileRows][kTileComponents + 1], sums[kAcross][kAcross + 1];
  const int64_t tiles = component_tiles(call), dims = shares(call, kDimsOfComponents);
  for (int64_t item = blockIdx.x; item < tiles * call.parts * dims * call.problems; item += gridDim.x) {
    const int64_t tile = item % tiles, part = item / tiles % call.parts, number = item / tiles / call.parts / dims;
    const int64_t first_row = part * call.rows_per_part;
    const int64_t end_row = smaller(first_row + call.rows_per_part, call.rows);
    const int64_t first_dim = item / tiles / call.parts % dims * kDimsOfComponents;
    const int64_t end_dim = smaller(first_dim + kDimsOfComponents, call.event);
    const Problem<T> problem(call, number);
    N dmu[kDimsOfComponents / kDepth][results], dv[kDimsOfComponents / kDepth][results], of_weight[kPanels];
    for (N& each : of_weight) each = N(0);
    for (int s = 0; s < kDimsOfComponents / kDepth; ++s)
      for (int i = 0; i < results; ++i) dmu[s][i] = dv[s][i] = N(0);
    for (int64_t first = first_row; first < end_row; first += kTileRows) {
      N w[kRowsEach][kPanels];
      problem.weights(staged, first, end_row, tile, w);
#pragma unroll
      for (int i = 0; i < kRowsEach; ++i)
#pragma unroll
        for (int j = 0; j < kPanels; ++j) {
          of_pairs[problem.row + i * kAcross][j * kPanel + problem.column] = w[i][j].v;
          of_weight[j] = of_weight[j] + w[i][j];
        }
#pragma unroll
      for (int s = 0; s < kDimsOfComponents / kDepth; ++s) {
        const int64_t d = first_dim + s * kDepth;
        if (d >= end_dim) break;
        const int count = problem.depth_at(d, end_dim);
        __syncthreads();
        problem.stage(staged, first, end_row, tile, d, count);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < results; ++i) {
          const int k = threadIdx.x % kTileComponents;
          const int depth = threadIdx.x / kTileComponents + i * (kThreads / kTileComponents);
          if (depth >= count) break;
          const N mu(staged.mu[depth][k]), inverse_std(staged.inverse_std[depth][k]);
          N minus_dz(0);
          for (int r = 0; r < kTileRows; ++r) {
            const N t = standardised_by(N(staged.z[depth][r]), mu, inverse_std);
            add_gradients<true>(N(of_pairs[r][k]), t, inverse_std, minus_dz, dmu[s][i], dv[s][i]);
          }
        }
      }
    }
    const int64_t of_part = part * call.problems * problem.panels();
#pragma unroll
    for (int s = 0; s < kDimsOfComponents / kDepth; ++s) {
      const int64_t d = first_dim + s * kDepth;
#pragma unroll
      for (int i = 0; i < results; ++i) {
        const int k = threadIdx.x % kTileComponents;
        const int depth = threadIdx.x / kTileComponents + i * (kThreads / kTileComponents);
        const int64_t panel = tile * kPanels + k / kPanel;
        if (d + depth >= end_dim || panel >= problem.panels()) continue;
        const int64_t at = of_part * call.event * kPanel + problem.at_panel(panel) + (d + depth) * kPanel + k % kPanel;
        static_cast<T*>(call.of_mu)[at] = dmu[s][i].v;
        static_cast<T*>(call.of_logvar)[at] = dv[s][i].v;
      }
    }
    for (int j = 0; j < kPanels; ++j) {
      add_up<true>(of_weight[j], sums);
      const int64_t panel = tile * kPanels + j;
      if (problem.row == 0 && panel < problem.panels() && first_dim == 0)
        static_cast<T*>(call.of_log_weight)[(of_part + number * problem.panels() + panel) * kPanel + problem.column] =
            of_weight[j].v;
    }
  }
}

// The same where a problem has one dimension: each thread adds up its own pairs.
template <class T>
__global__ void __launch_bounds__(kThreads) mixture_of_rows_of_one(const __grid_constant__ MixtureCall call) {
  using N = Scalar<T>;
  __shared__ Staged<T> staged;
  __shared__ T sums[kAcross][kAcross + 1];
  const int64_t tiles = row_tiles(call);
  for (int64_t item = blockIdx.x; item < tiles * call.problems; item += gridDim.x) {
    const int64_t number = item / tiles;
    const int64_t first = item % tiles * kTileRows, end = smaller(first + kTileRows, call.rows);
    const Problem<T> problem(call, number);
    N minus_dz[kRowsEach];
    for (N& each : minus_dz) each = N(0);
    for (int64_t tile = 0; tile < problem.tiles(); ++tile) {
      N w[kRowsEach][kPanels], dmu(0), dv(0);
      problem.weights(staged, first, end, tile, w);
#pragma unroll
      for (int i = 0; i < kRowsEach; ++i)
#pragma unroll
        for (int j = 0; j < kPanels; ++j)
          add_gradients<true>(w[i][j], problem.standardised(staged, i, j, 0), problem.inverse_std(staged, j, 0),
                              minus_dz[i], dmu, dv);
    }
    for (int i = 0; i < kRowsEach; ++i) {
      add_up<false>(minus_dz[i], sums);
      const int64_t r = first + problem.row + i * kAcross;
      if (problem.column == 0 && r < end) static_cast<T*>(call.dz)[r * call.problems + number] = -minus_dz[i].v;
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) mixture_of_components_of_one(const __grid_constant__ MixtureCall call) {
  using N = Scalar<T>;
  __shared__ Staged<T> staged;
  __shared__ T sums[kAcross][kAcross + 1];
  const int64_t tiles = component_tiles(call);
  for (int64_t item = blockIdx.x; item < tiles * call.parts * call.problems; item += gridDim.x) {
    const int64_t tile = item % tiles, part = item / tiles % call.parts, number = item / tiles / call.parts;
    const int64_t first_row = part * call.rows_per_part;
    const int64_t end_row = smaller(first_row + call.rows_per_part, call.rows);
    const Problem<T> problem(call, number);
    N dmu[kPanels], dv[kPanels], of_weight[kPanels];
    for (int j = 0; j < kPanels; ++j) dmu[j] = dv[j] = of_weight[j] = N(0);
    for (int64_t first = first_row; first < end_row; first += kTileRows) {
      N w[kRowsEach][kPanels], minus_dz(0);
      problem.weights(staged, first, end_row, tile, w);
#pragma unroll
      for (int i = 0; i < kRowsEach; ++i)
#pragma unroll
        for (int j = 0; j < kPanels; ++j) {
          add_gradients<true>(w[i][j], problem.standardised(staged, i, j, 0), problem.inverse_std(staged, j, 0),
                              minus_dz, dmu[j], dv[j]);
          of_weight[j] = of_weight[j] + w[i][j];
        }
    }
    for (int j = 0; j < kPanels; ++j) {
      add_up<true>(dmu[j], sums), add_up<true>(dv[j], sums), add_up<true>(of_weight[j], sums);
      const int64_t panel = tile * kPanels + j;
      if (problem.row != 0 || panel >= problem.panels()) continue;
      const int64_t at = ((part * call.problems + number) * problem.panels() + panel) * kPanel + problem.column;
      static_cast<T*>(call.of_mu)[at] = dmu[j].v;
      static_cast<T*>(call.of_logvar)[at] = dv[j].v;
      static_cast<T*>(call.of_log_weight)[at] = of_weight[j].v;
    }
  }
}

dim3 grid(int64_t items) { return dim3(static_cast<unsigned>(smaller(items, kMaxGrid))); }

template <class T>
cudaError_t forward(const MixtureCall& call, cudaStream_t stream) {
  return launch(mixture_forward<T>, grid(row_tiles(call) * call.problems), kThreads, stream, call);
}

template <class T>
cudaError_t backward(const MixtureCall& call, cudaStream_t stream) {
  const bool one = call.event == 1;
  if (call.dz) {
    const int64_t items = row_tiles(call) * shares(call, kDimsOfRows) * call.problems;
    const auto kernel = one ? mixture_of_rows_of_one<T> : mixture_of_rows<T>;
    const cudaError_t error = launch(kernel, grid(items), kThreads, stream, call);
    if (error != cudaSuccess) return error;
  }
  if (!call.of_mu) return cudaSuccess;
  const int64_t items = component_tiles(call) * call.parts * shares(call, kDimsOfComponents) * call.problems;
  const auto kernel = one ? mixture_of_components_of_one<T> : mixture_of_components<T>;
  return launch(kernel, grid(items), kThreads, stream, call);
}

}  // namespace
}  // namespace aevb::device

namespace aevb::cuda {

cudaError_t mixture_forward(const MixtureCall& call, cudaStream_t stream) {
  return call.wide == Type::f64 ? device::forward<double>(call, stream) : device::forward<float>(call, stream);
}

cudaError_t mixture_backward(const MixtureCall& call, cudaStream_t stream) {
  return call.wide == Type::f64 ? device::backward<double>(call, stream) : device::backward<float>(call, stream);
}

}  // namespace aevb::cuda
