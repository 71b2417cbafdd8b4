#include "cuda/rows.cuh"
#include "formulas/counts.h"

namespace aevb::device {

template <>
constexpr bool is_compact<NegativeBinomialOfLogits> = true;
template cudaError_t run<Forward, NegativeBinomialOfLogits>(const RowCall&, cudaStream_t);
template cudaError_t run<Backward, NegativeBinomialOfLogits>(const RowCall&, cudaStream_t);

}  // namespace aevb::device
