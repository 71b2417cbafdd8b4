// One object for each instruction set: AEVB_ISA, its namespace, and the compiler's flags come from setup.py.
#include "cpu/sample.h"

namespace aevb::AEVB_ISA {
namespace {

void row_forward(const RowCall& call, int64_t begin, int64_t end) {
  with_formula(call, [&](const auto& formula) {
    call.wide == Type::f64 ? rows_forward<double>(formula, call, begin, end)
                           : rows_forward<float>(formula, call, begin, end);
  });
}

void row_backward(const RowCall& call, int64_t begin, int64_t end) {
  with_formula(call, [&](const auto& formula) {
    call.wide == Type::f64 ? rows_backward<double>(formula, call, begin, end)
                           : rows_backward<float>(formula, call, begin, end);
  });
}

void sample_forward(const SampleCall& call, int64_t begin, int64_t end) {
  call.wide == Type::f64 ? samples_forward<double>(call, begin, end) : samples_forward<float>(call, begin, end);
}

void sample_backward(const SampleCall& call, int64_t begin, int64_t end) {
  call.wide == Type::f64 ? samples_backward<double>(call, begin, end) : samples_backward<float>(call, begin, end);
}

#define AEVB_TEXT(text) #text
#define AEVB_NAME(isa) AEVB_TEXT(isa)

}  // namespace

extern const CpuKernels kernels = {AEVB_NAME(AEVB_ISA), tiles,          row_forward,
                                   row_backward,        sample_forward, sample_backward};

}  // namespace aevb::AEVB_ISA
