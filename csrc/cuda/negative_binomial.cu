#include "cuda/rows.cuh"
#include "formulas/counts.h"

namespace aevb::device {

template <>
constexpr bool is_compact<NegativeBinomial> = true;
template cudaError_t run<Forward, NegativeBinomial>(const RowCall&, cudaStream_t);
template cudaError_t run<Backward, NegativeBinomial>(const RowCall&, cudaStream_t);

}  // namespace aevb::device
