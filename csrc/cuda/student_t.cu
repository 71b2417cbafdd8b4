#include "cuda/rows.cuh"
#include "formulas/student_t.h"

namespace aevb::device {

template <>
constexpr bool is_compact<StudentT> = true;
template cudaError_t run<Forward, StudentT>(const RowCall&, cudaStream_t);
template cudaError_t run<Backward, StudentT>(const RowCall&, cudaStream_t);

}  // namespace aevb::device
