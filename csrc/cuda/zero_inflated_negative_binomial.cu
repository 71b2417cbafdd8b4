#include "cuda/rows.cuh"
#include "formulas/counts.h"

namespace aevb::device {

template <>
constexpr bool is_compact<ZeroInflatedNegativeBinomial> = true;
template cudaError_t run<Forward, ZeroInflatedNegativeBinomial>(const RowCall&, cudaStream_t);
template cudaError_t run<Backward, ZeroInflatedNegativeBinomial>(const RowCall&, cudaStream_t);

}  // namespace aevb::device
