// What tensors cannot show of the CUDA kernels: call by call, as csrc/ops makes none. The name of a check is the
// argument; it says what is wrong, or nothing.
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "buffers.h"
#include "cuda/kernels.h"
#include "cuda/scalar.h"

namespace {

using namespace aevb;
using emulation::watched;

void require(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}
void require_near(double found, double expected, double relative, const std::string& what) {
  require(std::abs(found - expected) <= relative * std::abs(expected),
          what + " is " + std::to_string(found) + ", expected " + std::to_string(expected));
}
void launched(cudaError_t error) { require(error == cudaSuccess, "cudaError_t " + std::to_string(error)); }

Input dense(const void* data, Type type, int64_t count) { return {data, type, 1, {count}, {1}}; }

// Memory that is zero and takes none until it is written.
template <class T>
class Sparse {
 public:
  explicit Sparse(int64_t count) : bytes_(count * sizeof(T)) {
    constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* const mapped = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, flags, -1, 0);
    require(mapped != MAP_FAILED, "the system has no addresses for so much memory");
    data_ = static_cast<T*>(mapped);
  }
  ~Sparse() { munmap(data_, bytes_); }
  Sparse(const Sparse&) = delete;
  T* data() const { return data_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  size_t bytes_;
  T* data_;
};

struct OnlyBlocks {
  explicit OnlyBlocks(std::vector<unsigned> blocks) { emulation::only = std::move(blocks); }
  ~OnlyBlocks() { emulation::only.clear(); }
};

RowCall row_call(Formula formula, int64_t rows, int64_t event) {
  RowCall call = {};
  call.formula = formula;
  call.wide = Type::f32;
  call.rows = rows;
  call.event = event;
  call.blocks = (event + kBlock - 1) / kBlock;
  return call;
}

// A call without a cotangent is one whose cotangents are one: bit for bit, summed or not, scaled or not.
void no_cotangent() {
  for (const int64_t event : {1, 5, 784})
    for (const double scale : {1.0, 0.25})
      for (const bool summed : {false, true}) {
        constexpr int64_t rows = 3;
        std::vector<float> x(rows * event), logits(rows * event), one = {1};
        for (size_t i = 0; i < x.size(); ++i) x[i] = float(i % 7) / 7, logits[i] = float(i % 11) - 5;
        std::vector<float> gradients[2];
        for (int given = 0; given < 2; ++given) {
          RowCall call = row_call(Formula::bernoulli, rows, event);
          std::vector<float> of_x(summed ? rows : x.size());
          gradients[given].resize(logits.size());
          call.in[0] = dense(x.data(), Type::f32, rows * event);
          call.in[1] = dense(logits.data(), Type::f32, rows * event);
          call.cotangent_scale = scale;
          call.gradient[0] = {of_x.data(), Type::f32, summed};
          call.gradient[1] = {gradients[given].data(), Type::f32};
          if (given) call.cotangent = {one.data(), Type::f32, 1, {rows * event}, {0}};
          launched(watched<RowCall>(cuda::row_backward, call));
          gradients[given].insert(gradients[given].end(), of_x.begin(), of_x.end());
        }
        require(gradients[0] == gradients[1], "other gradients than for cotangents of one");
        const double p = 1 / (1 + std::exp(-double(logits[0])));
        require_near(gradients[0][0], scale * (x[0] - p), 1e-5, "a gradient");
      }
}

// A Bernoulli call in one pass, whose buffers stay: to launch it again is what a captured graph does when it is
// replayed.
struct OnePass {
  static constexpr float kLeft = -12345;  // what is in a gradient that nothing has written
  static constexpr float kNone = NAN;     // a guess

  int64_t rows, event, blocks, offset;  // of the gradient, which may be aligned otherwise than its operands
  std::vector<float> x, logits, cotangents, values, used, gradient;
  RowCall call;

  OnePass(int64_t rows, int64_t event, int history, bool per_row, int64_t offset)
      : rows(rows), event(event), offset(offset) {
    call = row_call(Formula::bernoulli, rows, event);
    blocks = call.blocks;
    x.resize(rows * event), logits.resize(rows * event), gradient.resize(rows * event + offset);
    for (size_t i = 0; i < x.size(); ++i) x[i] = float(i % 7) / 7, logits[i] = float(i % 11) - 5;
    logits.back() = INFINITY;
    cotangents.resize(per_row ? rows : 1);
    values.resize(rows * blocks), used.resize(rows * blocks);
    call.in[0] = dense(x.data(), Type::f32, rows * event);
    call.in[1] = dense(logits.data(), Type::f32, rows * event);
    call.cotangent_scale = 0.25;
    call.guesses = {used.data(), history};
  }
  float* of_row(int64_t row) { return &gradient[offset + row * event]; }
  void forward() {
    std::fill(gradient.begin(), gradient.end(), kLeft);
    launched(watched<RowCall>(cuda::row_forward, forward_call()));
  }
  RowCall forward_call() {
    RowCall forward = call;
    forward.value = {values.data(), Type::f32, true};
    forward.gradient[1] = {of_row(0), Type::f32};
    return forward;
  }
  RowCall backward_call() const {
    RowCall backward = call;
    backward.cotangent = {cotangents.data(), Type::f32, 2, {rows, event}, {1, 0}};
    if (cotangents.size() == 1) backward.cotangent = {cotangents.data(), Type::f32, 1, {rows * event}, {0}};
    return backward;
  }
  void backward() {
    RowCall backward = backward_call();
    backward.gradient[1] = {of_row(0), Type::f32};
    launched(watched<RowCall>(cuda::row_backward, backward));
  }
  void see(float cotangent) {
    std::fill(cotangents.begin(), cotangents.end(), cotangent);
    backward();
  }
  bool guessed(float guess, int64_t row) const {
    bool all = true;
    for (int64_t b = row * blocks; b < (row + 1) * blocks; ++b)
      all = all && (guess == guess ? used[b] == guess : used[b] != used[b]);
    return all;
  }
  bool guessed(float guess) const {
    bool all = true;
    for (int64_t row = 0; row < rows; ++row) all = all && guessed(guess, row);
    return all;
  }
  bool is_left(int64_t row) { return std::count(of_row(row), of_row(row) + event, kLeft) == event; }
  // Those of two passes.
  void require_bits(const std::string& when) {
    std::vector<float> apart(rows * event), summed(values.size());
    RowCall forward = call, backward = backward_call();
    forward.guesses = backward.guesses = {};
    forward.value = {summed.data(), Type::f32, true};
    launched(watched<RowCall>(cuda::row_forward, forward));
    backward.gradient[1] = {apart.data(), Type::f32};
    launched(watched<RowCall>(cuda::row_backward, backward));
    require(!std::memcmp(values.data(), summed.data(), values.size() * sizeof(float)), "other values, " + when);
    require(!std::memcmp(of_row(0), apart.data(), apart.size() * sizeof(float)), "another gradient, " + when);
  }
};

// For threads, warps and blocks that have a row, and for rows of several blocks; one cotangent, or one for each row.
template <class Check>
void in_one_pass(Check check) {
  static int history = 0;  // each has its own
  for (const auto& [rows, event] :
       {std::pair<int64_t, int64_t>{37, 5}, {9, 8}, {9, 130}, {5, 784}, {3, 2000}, {3, 9292}})
    for (const bool per_row : {false, true})
      for (const int64_t offset : {0, 1}) check(OnePass(rows, event, history++, per_row, offset));
}

void a_right_guess_leaves_the_gradient() {
  in_one_pass([](OnePass pass) {
    pass.forward();
    require(pass.guessed(1), "the first guess is not 1");
    std::fill(pass.cotangents.begin(), pass.cotangents.end(), 1.0f);
    pass.require_bits("of the first guess");
    const auto accesses_of = [&](float cotangent) {
      std::fill(pass.gradient.begin(), pass.gradient.end(), OnePass::kLeft);
      const uint64_t before = emulation::counts.accesses;
      pass.see(cotangent);
      return emulation::counts.accesses - before;
    };
    const uint64_t right = accesses_of(1);
    for (int64_t row = 0; row < pass.rows; ++row) require(pass.is_left(row), "a right guess is computed again");
    // What sets up a thread and a tile counts as well.
    require(pass.event < 130 || 3 * right < accesses_of(2), "a right guess reads much");
  });
}

void a_wrong_guess_costs_no_bit() {
  in_one_pass([](OnePass pass) {
    for (const float number : {-1.0f, 0.5f, 0.0f, -0.0f, NAN, INFINITY, 1e-45f, 1.0f}) {
      for (int turn = 0; turn < 4; ++turn) {
        pass.forward();
        const bool is_guess = number == number && number != 0;
        require(turn < 2 || pass.guessed(is_guess ? number : OnePass::kNone), "what is guessed after two of a kind");
        require(pass.is_left(0) == pass.guessed(OnePass::kNone), "a gradient for no guess, or none for one");
        pass.see(number);
        pass.require_bits("of cotangents " + std::to_string(number));
      }
    }
  });
}

void only_rows_of_another_cotangent_are_computed() {
  in_one_pass([](OnePass pass) {
    if (pass.cotangents.size() == 1) return;
    pass.forward();
    std::fill(pass.cotangents.begin(), pass.cotangents.end(), 1.0f);
    pass.cotangents[1] = 3;
    if (pass.rows > 4) pass.cotangents[2] = 0, pass.cotangents[3] = NAN;
    const std::vector<float> ahead = pass.gradient;
    std::fill(pass.gradient.begin(), pass.gradient.end(), OnePass::kLeft);
    pass.backward();
    for (int64_t row = 0; row < pass.rows; ++row) {
      require(pass.is_left(row) == (pass.cotangents[row] == 1), "row " + std::to_string(row));
      if (pass.is_left(row)) std::copy_n(&ahead[pass.offset + row * pass.event], pass.event, pass.of_row(row));
    }
    pass.require_bits("of several cotangents");
    // The first row and the last have the cotangent of before.
    pass.forward();
    require(pass.guessed(1), "a guess that two rows have is forgotten");
    pass.cotangents.back() = 2;
    pass.backward();
    pass.forward();
    require(pass.guessed(OnePass::kNone), "a guess that the last row has not is kept");
  });
}

// Calls of one key on two streams: what one writes, the other reads, at any time.
void histories_that_others_write() {
  in_one_pass([](OnePass first) {
    OnePass second(first.rows, first.event, first.call.guesses.history, first.cotangents.size() > 1, first.offset);
    const auto teach = [&](float number) {
      for (int turn = 0; turn < 2; ++turn) second.forward(), second.see(number);
    };
    teach(3);
    first.forward();
    teach(2);  // between forward and backward
    first.see(3);
    first.require_bits("of a guess that others have changed");
    require(first.guessed(3), "the guess of a call is not its own");
    // While the forward runs: its first block has one guess, and the others another.
    teach(5);
    const auto part = [&](std::vector<unsigned> blocks) {
      const OnlyBlocks some(std::move(blocks));
      launched(watched<RowCall>(cuda::row_forward, first.forward_call()));
    };
    first.forward();
    teach(7);
    part({0});
    require(first.guessed(7, 0) || first.blocks > 1, "the guess of the first block");
    for (const float number : {5.0f, 7.0f, 6.0f}) {
      OnePass copy = first;
      copy.call.in[0].data = copy.x.data(), copy.call.in[1].data = copy.logits.data();
      copy.call.guesses.used = copy.used.data();
      copy.see(number);
      copy.require_bits("of a guess that changed meanwhile");
    }
  });
}

// Rows that begin beyond 2^32 elements, and beyond 2^32 bytes of a smaller type.
void rows_beyond_32_bits() {
  constexpr int64_t event = 512, rows = (int64_t(1) << 32) / event + 8, last = rows - 1;
  const Sparse<float> mu(rows * event), logvar(rows * event), gradient(rows * event);
  std::vector<float> value(rows), cotangent(rows, 1.0f);
  mu[last * event + event - 1] = 3;
  logvar[last * event] = -1;
  RowCall call = row_call(Formula::gaussian_kl, rows, event);
  call.in[0] = dense(mu.data(), Type::f32, rows * event);
  call.in[1] = dense(logvar.data(), Type::f32, rows * event);
  // Four warps of a block have a row each; the grid has 65536 blocks, and goes round: these have the last rows.
  const auto blocks = [](int64_t row) { return std::vector<unsigned>{unsigned(row / 4 % 65536)}; };
  {
    const OnlyBlocks some(blocks(last));
    call.value = {value.data(), Type::f32, true};
    launched(watched<RowCall>(cuda::row_forward, call));
  }
  require_near(value[last], 0.5 * 9 + 0.5 * (std::exp(-1.0) - 1 + 1), 1e-6, "the KL of the last row");
  require(value[last - 1] == 0, "the KL of a row that is the prior is not 0");
  {
    const OnlyBlocks some(blocks(last));
    call.value = {};
    call.cotangent = {cotangent.data(), Type::f32, 2, {rows, event}, {1, 0}};
    call.gradient[0] = {gradient.data(), Type::f32};
    launched(watched<RowCall>(cuda::row_backward, call));
  }
  require(gradient[last * event + event - 1] == 3, "the last gradient is not that of its row");
  require(gradient[last * event + event - 2] == 0 && gradient[(last - 1) * event + event - 1] == 0,
          "a gradient beside the last row's");
}

// One row of more than 2^32 elements, of which the last blocks are summed.
void a_row_beyond_32_bits() {
  constexpr int64_t event = (int64_t(1) << 32) + 3 * kBlock + 5, blocks = (event + kBlock - 1) / kBlock;
  const Sparse<uint8_t> x(event);
  const float logit = 0.5f;
  std::vector<float> value(blocks);
  x[event - 1] = 1;
  RowCall call = row_call(Formula::bernoulli, 1, event);
  call.in[0] = dense(x.data(), Type::u8, event);
  call.in[1] = {&logit, Type::f32, 1, {event}, {0}};
  call.value = {value.data(), Type::f32, true};
  const OnlyBlocks some({unsigned((blocks - 1) % 65536), unsigned((blocks - 2) % 65536)});
  launched(watched<RowCall>(cuda::row_forward, call));
  const double each = -std::log1p(std::exp(0.5));
  require_near(value[blocks - 1], 5 * each + 0.5, 1e-6, "the sum of the last block");
  require_near(value[blocks - 2], kBlock * each, 1e-5, "the sum of the block before it");
}

// The noise of an element is that of its index, and not of what 32 bits leave of it. The same numbers are drawn by a
// small problem whose first sample is as far from the start.
void noise_beyond_32_bits() {
  constexpr int64_t event = 128, rows = (int64_t(1) << 32) / event + 4;
  const Sparse<float> z(rows * event);
  const float zero = 0;
  const int64_t key[2] = {0x0123456789abcdef, (int64_t(5) << 33) + 1};
  const auto call_of = [&](int64_t n, float* to) {
    SampleCall call = {};
    call.wide = Type::f32;
    call.rows = n, call.event = event, call.blocks = 1, call.samples = 1;
    call.mu = call.spread = {&zero, Type::f32, 1, {n * event}, {0}};
    call.key = key, call.key_rows = n;
    call.z = {to, Type::f32};
    return call;
  };
  {
    // As one run its tiles are 512 elements, and a block has four.
    const OnlyBlocks some({unsigned(rows * event / 512 / 4 % 65536)});
    launched(watched<SampleCall>(cuda::sample_forward, call_of(rows, z.data())));
  }
  std::vector<float> expected(4 * event);
  SampleCall small = call_of(4, expected.data());
  small.first_sample = rows / 4 - 1;
  launched(watched<SampleCall>(cuda::sample_forward, small));
  for (int64_t i = 0; i < 4 * event; ++i)
    require(z[(rows - 4) * event + i] == expected[i], "number " + std::to_string(i) + " of the last rows' noise");
  small.first_sample = 0;
  std::vector<float> first = expected;
  launched(watched<SampleCall>(cuda::sample_forward, small));
  require(first != expected, "the noise of the last rows is that of the first");
}

void bits_beyond_32_bits() {
  constexpr int64_t bytes = (int64_t(1) << 32) + 1000;
  const Sparse<uint8_t> packed(bytes), bits(8 * bytes);
  packed[bytes - 1] = 0xa5;
  const UnpackCall call = {packed.data(), bits.data(), 1, bytes, 8 * bytes};
  const OnlyBlocks some({unsigned((bytes - 1) / 256 % 65536)});
  launched(watched<UnpackCall>(cuda::unpack_bits, call));
  for (int j = 0; j < 8; ++j) require(bits[8 * (bytes - 1) + j] == (0xa5 >> (7 - j) & 1), "a bit of the last byte");
  require(bits[8 * (bytes - 2)] == 0, "a bit of the byte before it");
}

// The keys of a generator's state, given at once or found in memory when a captured graph is replayed.
void noise_keys() {
  constexpr int64_t count = 300;
  const int64_t seed = 42, offset = 4096;
  std::vector<int64_t> keys[2];
  for (int captured = 0; captured < 2; ++captured) {
    keys[captured].resize(2 * count);
    const auto state = captured ? cuda::GeneratorState{0, 8, &seed, &offset}
                                : cuda::GeneratorState{uint64_t(seed), uint64_t(offset) + 8, nullptr, nullptr};
    const emulation::Watch watch({emulation::operand("the seed", &seed, sizeof(seed)),
                                  emulation::operand("the offset", &offset, sizeof(offset)),
                                  {"the keys", keys[captured].data(), 16 * count, 0, 1, true}});
    launched(cuda::noise_keys(state, keys[captured].data(), count, nullptr));
    watch.finish();
  }
  require(keys[0] == keys[1], "a captured state gives other keys");
  for (int64_t i = 0; i < count; ++i)
    require(keys[0][2 * i] == (seed ^ 0x616576622e6b6579) && keys[0][2 * i + 1] == offset + 8 + 4 * i,
            "key " + std::to_string(i));
}

// The normals of 2^24 pairs of words, which have every mantissa of the uniform numbers, against float64. The unit's
// part errs by as much as its bounds allow.
template <class N>
void normals_near(double radius_error, double angle_error) {
  constexpr double turn = 6.283185307179586477;
  for (uint64_t k = 0; k <= (1 << 24); ++k) {
    const auto word = static_cast<uint32_t>(std::min<uint64_t>(k << 8, UINT32_MAX));
    N first, second;
    box_muller(N(word), N(word), first, second);
    // As float32 has them.
    const double u = float(word) * 0x1p-32f + 0x1p-33f, t = float(word) * 0x1p-32f,
                 radius = std::sqrt(-2 * std::log(u));
    const double bound = radius * (radius_error + angle_error);
    require(std::abs(double(first.v) - radius * std::cos(turn * t)) <= bound &&
                std::abs(double(second.v) - radius * std::sin(turn * t)) <= bound,
            "the normals of word " + std::to_string(word) + " are " + std::to_string(first.v) + " and " +
                std::to_string(second.v));
  }
}
void box_muller_of_every_mantissa() {
  normals_near<device::F32>(0x1p-21, 0x1p-22);
  normals_near<device::Quick>(1.3e-5, 2e-6);
}

// Every kernel on buffers that end where their numbers do, and begin where a wide load may or not: for what watches
// memory. What is computed does not matter here.
void sweep() {
  std::deque<std::vector<char>> memory;
  const auto fresh = [&](Type type, int64_t count, int64_t offset) {
    memory.emplace_back((count + offset) * size_of(type));
    return memory.back().data() + offset * size_of(type);
  };
  constexpr Type types[] = {Type::f64, Type::f32, Type::bf16, Type::f16};
  const std::pair<Formula, int> formulas[] = {{Formula::bernoulli, 2},   {Formula::bernoulli_of_probs, 2},
                                              {Formula::gaussian, 3},    {Formula::gaussian_of_sigmoid, 3},
                                              {Formula::gaussian_kl, 2}, {Formula::gaussian_kl_prior, 4}};
  constexpr int64_t key[2] = {1, 2};
  for (const Type type : types)
    for (const int64_t event : {1, 7, 130, 1029, 8195})
      for (const int64_t offset : {0, 1})
        for (const bool summed : {false, true}) {
          constexpr int64_t rows = 3;
          const Type wide = type == Type::f64 ? Type::f64 : Type::f32;
          const int64_t count = rows * event, blocks = (event + kBlock - 1) / kBlock;
          // Of rows that do not follow each other, so that they stay rows.
          const auto in = [&](Type of) -> Input {
            return {fresh(of, count + rows - 1, offset), of, 2, {rows, event}, {event + 1, 1}};
          };
          const auto out = [&](Type of, bool per_block) -> Output {
            return {fresh(of, per_block ? rows * blocks : count, offset), of, per_block};
          };
          for (const auto& [formula, arity] : formulas) {
            RowCall call = row_call(formula, rows, event);
            call.wide = wide;
            for (int k = 0; k < arity; ++k) call.in[k] = in(type);
            RowCall backward = call;
            call.value = out(wide, summed);
            launched(watched<RowCall>(cuda::row_forward, call));
            backward.cotangent = in(wide);
            for (int k = 0; k < arity; ++k) {
              const bool sum = summed && k == 1;
              backward.gradient[k] = out(sum ? wide : type, sum);
            }
            launched(watched<RowCall>(cuda::row_backward, backward));
          }
          SampleCall sample = {};
          sample.wide = wide;
          sample.rows = rows, sample.event = event, sample.blocks = blocks, sample.samples = 2;
          sample.mu = in(type), sample.spread = in(type);
          sample.key = key, sample.key_rows = rows;
          SampleCall backward = sample;
          sample.z = {fresh(type, 2 * count, offset), type};
          sample.kl = out(wide, summed);
          launched(watched<SampleCall>(cuda::sample_forward, sample));
          backward.z_cotangent = dense(fresh(type, 2 * count, offset), type, 2 * count);
          backward.kl_cotangent = in(wide);
          backward.gradient[0] = out(type, false);
          backward.gradient[1] = out(summed ? wide : type, summed);
          launched(watched<SampleCall>(cuda::sample_backward, backward));
          BinarizeCall bits = {1, wide, rows, event, blocks, in(type), key, rows, {}, {}};
          bits.bits = reinterpret_cast<uint8_t*>(fresh(Type::u8, count, offset));
          launched(watched<BinarizeCall>(cuda::binarize, bits));
          const int64_t width = (event + 7) / 8;
          UnpackCall unpack = {reinterpret_cast<uint8_t*>(fresh(Type::u8, rows * width, offset)),
                               reinterpret_cast<uint8_t*>(fresh(Type::u8, count, offset)), rows, width, event};
          launched(watched<UnpackCall>(cuda::unpack_bits, unpack));
          memory.clear();
        }
}

// Without this the checks above, and every test of the emulated library, would look at nothing.
void accesses_are_seen() {
  const uint64_t before = emulation::counts.accesses;
  no_cotangent();
  require(emulation::counts.accesses > before, "the kernels were compiled without -fsanitize=thread");
}

const std::map<std::string, std::function<void()>> checks = {
    {"no_cotangent", no_cotangent},
    {"a_right_guess_leaves_the_gradient", a_right_guess_leaves_the_gradient},
    {"a_wrong_guess_costs_no_bit", a_wrong_guess_costs_no_bit},
    {"only_rows_of_another_cotangent_are_computed", only_rows_of_another_cotangent_are_computed},
    {"histories_that_others_write", histories_that_others_write},
    {"rows_beyond_32_bits", rows_beyond_32_bits},
    {"a_row_beyond_32_bits", a_row_beyond_32_bits},
    {"noise_beyond_32_bits", noise_beyond_32_bits},
    {"bits_beyond_32_bits", bits_beyond_32_bits},
    {"noise_keys", noise_keys},
    {"box_muller_of_every_mantissa", box_muller_of_every_mantissa},
    {"sweep", sweep},
    {"accesses_are_seen", accesses_are_seen},
};

}  // namespace

int main(int, char** arguments) try { checks.at(arguments[1])(); } catch (const std::exception& error) {
  std::printf("%s\n", error.what());
  return 1;
}
