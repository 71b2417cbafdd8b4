// One object for each instruction set: AEVB_ISA, its namespace, and the compiler's flags come from setup.py.
#include "cpu/bits.h"
#include "cpu/layer.h"
#include "cpu/positions.h"

namespace aevb::AEVB_ISA {
namespace {

template <class T, bool values, bool gradients>
void rows(const RowCall& call, int64_t begin, int64_t end) {
  with_formula<T>(call, [&](auto recipe) {
    using Recipe = decltype(recipe);
    constexpr auto loops = loops_of<T, Recipe, values, gradients>();
    RowPass<T, Recipe::Formula::arity, values, gradients>(call, loops).run(begin, end);
  });
}

template <bool values, bool gradients>
void rows(const RowCall& call, int64_t begin, int64_t end) {
  call.wide == Type::f64 ? rows<double, values, gradients>(call, begin, end)
                         : rows<float, values, gradients>(call, begin, end);
}

void rows(const RowCall& call, int64_t begin, int64_t end) {
  bool gradients = false;
  for (const Output& gradient : call.gradient) gradients = gradients || gradient.data;
  if (!call.value.data && !gradients) return;
  if (call.value.data && gradients) return rows<true, true>(call, begin, end);
  gradients ? rows<false, true>(call, begin, end) : rows<true, false>(call, begin, end);
}

void sample_forward(const SampleCall& call, int64_t begin, int64_t end) {
  call.wide == Type::f64 ? samples_forward<double>(call, begin, end) : samples_forward<float>(call, begin, end);
}

void sample_backward(const SampleCall& call, int64_t begin, int64_t end) {
  call.wide == Type::f64 ? samples_backward<double>(call, begin, end) : samples_backward<float>(call, begin, end);
}

void binarize(const BinarizeCall& call, int64_t begin, int64_t end) {
  call.wide == Type::f64 ? draw_bits<double>(call, begin, end) : draw_bits<float>(call, begin, end);
}

#define AEVB_TEXT(text) #text
#define AEVB_NAME(isa) AEVB_TEXT(isa)

}  // namespace

extern const CpuKernels kernels = {AEVB_NAME(AEVB_ISA),
                                   tiles,
                                   rows,
                                   position_tiles,
                                   categorical,
                                   discretized_logistic_mixture,
                                   sample_forward,
                                   sample_backward,
                                   binarize,
                                   unpack_bits,
                                   activate,
                                   activate_backward,
                                   scale_bytes};

}  // namespace aevb::AEVB_ISA
