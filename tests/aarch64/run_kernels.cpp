// Runs the CPU kernels without torch: calls come on standard input, their results go to standard output.
// tests/test_aarch64.py compiles it for another processor and knows what the results have to be.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cpu/instruction_sets.h"

namespace aevb {
namespace {

const CpuKernels& kernels() { return *cpu::find_kernels(nullptr); }

enum class Kernel : int64_t { rows, sample_forward, sample_backward, binarize, unpack_bits, activate, scale_bytes };

// What comes before a call's arrays. Element e of row r of an operand, and of its gradient, lies at r * row_step +
// e * step; values and samples are contiguous.
struct Header {
  Kernel kernel;
  int64_t formula, spread, type, data_type;  // that of the first operand, where a formula has data
  int64_t per_block, rows, event, row_step, step, samples;
  double x_scale;
};

bool read_exactly(void* to, size_t size) { return std::fread(to, 1, size, stdin) == size; }

// An array of a call, with room for what the kernels may not touch.
class Array {
 public:
  Array(int64_t count, Type type) : bytes_(count * size_of(type)) {}
  static Array read(int64_t count, Type type) {
    Array array(count, type);
    if (!read_exactly(array.data(), array.bytes_.size())) std::abort();
    return array;
  }
  void write() const { std::fwrite(bytes_.data(), 1, bytes_.size(), stdout); }
  char* data() { return bytes_.data(); }
  template <class T>
  T* of() {
    return reinterpret_cast<T*>(data());
  }

 private:
  std::vector<char> bytes_;
};

struct Problem : Header {
  Type operand() const { return Type(type); }
  Type wide() const { return operand() == Type::f64 ? Type::f64 : Type::f32; }
  int64_t blocks() const { return (event + kBlock - 1) / kBlock; }
  int64_t values() const { return rows * (per_block ? blocks() : event); }
  int64_t extent() const { return (rows - 1) * row_step + (event - 1) * step + 1; }
  Params params() const { return {x_scale, Spread(spread)}; }

  // Dimensions are merged where that is possible, as ops/common/layout.h does.
  Input input(Array& array, Type type) const {
    if (row_step == event * step) return {array.data(), type, 1, {rows * event}, {step}};
    return {array.data(), type, 2, {rows, event}, {row_step, step}};
  }
  // A number for each row, or one for each element.
  Input cotangent(Array& array) const {
    if (per_block) return {array.data(), wide(), 2, {rows, event}, {1, 0}};
    return {array.data(), wide(), 1, {rows * event}, {1}};
  }
  Array read_cotangent() const { return Array::read(per_block ? rows : rows * event, wide()); }
  template <class Call>
  Call call() const {
    Call call = {};
    call.wide = wide(), call.rows = rows, call.event = event, call.blocks = blocks();
    return call;
  }
  template <class Call>
  void run(void (*kernel)(const Call&, int64_t, int64_t), const Call& call) const {
    kernel(call, 0, kernels().tiles(rows, event, blocks(), call.rows_per_sum()).count);
  }

  void run_rows() const {
    const Formula kind = Formula(formula);
    const bool has_data = kind != Formula::gaussian_kl && kind != Formula::gaussian_kl_prior;
    const bool two = kind == Formula::bernoulli || kind == Formula::bernoulli_of_probs || kind == Formula::gaussian_kl;
    const int arity = two ? 2 : kind == Formula::gaussian_kl_prior ? 4 : 3;
    RowCall call = this->call<RowCall>();
    call.formula = kind, call.params = params();
    std::vector<Array> operands, gradients;
    for (int k = 0; k < arity; ++k) {
      const Type type = k == 0 && has_data ? Type(data_type) : operand();
      operands.push_back(Array::read(extent(), type));
      call.in[k] = input(operands.back(), type);
      gradients.emplace_back(type == Type::u8 ? 0 : extent(), type);
      if (type != Type::u8) call.gradient[k] = {gradients.back().data(), type, false, &call.in[k]};
    }
    Array given = read_cotangent(), value(values(), wide());
    call.cotangent = cotangent(given);
    call.value = {value.data(), wide(), per_block != 0};
    run(kernels().rows, call);
    value.write();
    for (const Array& gradient : gradients) gradient.write();
  }

  void run_samples() const {
    Array mu = Array::read(extent(), operand()), s = Array::read(extent(), operand()), key = Array::read(2, Type::f64);
    const Input posterior = input(mu, operand());
    SampleCall call = this->call<SampleCall>();
    call.params = params(), call.samples = samples, call.mu = posterior, call.spread = input(s, operand());
    call.key = key.of<int64_t>(), call.key_rows = rows;
    if (kernel == Kernel::sample_forward) {
      Array z(samples * rows * event, operand()), kl(values(), wide());
      call.z = {z.data(), operand()}, call.kl = {kl.data(), wide(), per_block != 0};
      run(kernels().sample_forward, call);
      z.write(), kl.write();
    } else {
      const int64_t draws = samples * rows * event;
      Array of_z = Array::read(draws, operand()), of_kl = read_cotangent();
      Array dmu(extent(), operand()), ds(extent(), operand());
      call.z_cotangent = {of_z.data(), operand(), 1, {draws}, {1}}, call.kl_cotangent = cotangent(of_kl);
      call.gradient[0] = {dmu.data(), operand(), false, &posterior};
      call.gradient[1] = {ds.data(), operand(), false, &posterior};
      run(kernels().sample_backward, call);
      dmu.write(), ds.write();
    }
  }

  void run_binarize() const {
    Array x = Array::read(extent(), operand()), key = Array::read(2, Type::f64), bits(rows * event, Type::u8);
    BinarizeCall call = this->call<BinarizeCall>();
    call.x_scale = x_scale, call.x = input(x, operand()), call.key = key.of<int64_t>(), call.key_rows = rows;
    call.bits = bits.of<uint8_t>();
    run(kernels().binarize, call);
    bits.write();
  }

  void run_unpack_bits() const {
    const int64_t width = (event + 7) / 8;
    Array packed = Array::read(rows * width, Type::u8), bits(rows * event, Type::u8);
    kernels().unpack_bits({packed.of<uint8_t>(), bits.of<uint8_t>(), rows, width, event}, 0, rows * width);
    bits.write();
  }

  // A layer forward, and backward from the cotangent of its output.
  void run_activate() const {
    Array y = Array::read(rows * event, Type::f32), bias = Array::read(event, Type::f32);
    Array given = Array::read(rows * event, Type::f32), gradient(rows * event, Type::f32),
          bias_gradient(event, Type::f32);
    kernels().activate({y.of<float>(), bias.of<float>(), rows, event}, 0, rows);
    kernels().activate_backward(
        {given.of<float>(), y.of<float>(), gradient.of<float>(), bias_gradient.of<float>(), rows, event}, 0, event);
    y.write(), gradient.write(), bias_gradient.write();
  }

  void run_scale_bytes() const {
    Array bytes = Array::read(rows * event, Type::u8), numbers(rows * event, Type::f32);
    kernels().scale_bytes({bytes.of<uint8_t>(), numbers.of<float>(), float(x_scale), rows * event}, 0, rows * event);
    numbers.write();
  }

  void run() const {
    switch (kernel) {
      case Kernel::rows: return run_rows();
      case Kernel::sample_forward:
      case Kernel::sample_backward: return run_samples();
      case Kernel::binarize: return run_binarize();
      case Kernel::unpack_bits: return run_unpack_bits();
      case Kernel::activate: return run_activate();
      case Kernel::scale_bytes: return run_scale_bytes();
    }
  }
};

}  // namespace
}  // namespace aevb

int main() {
  for (aevb::Problem problem; aevb::read_exactly(static_cast<aevb::Header*>(&problem), sizeof(aevb::Header));)
    problem.run();
}
