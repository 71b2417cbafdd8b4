// A formula over rows: its values and their row sums, the gradients of its operands, or both in one pass.
#pragma once
#include "cpu/tiles.h"
#include "formulas/spread.h"

namespace aevb::AEVB_ISA {

// Calls body(load, store) along `count` elements: for whole vectors, then for the rest.
template <class T, class Body>
AEVB_INLINE void along(int count, Body body) {
  constexpr int lanes = Vec<T>::lanes;
  int i = 0;
  for (; i + lanes <= count; i += lanes)
    body([i](const T* p) { return Vec<T>::load(p + i); }, [i](Vec<T> v, T* p) { v.store(p + i); });
  if (i < count)
    body([=](const T* p) { return Vec<T>::load(p + i, count - i); },
         [=](Vec<T> v, T* p) { v.store(p + i, count - i); });
}

// The least number of elements that are prefetched ahead, and the number computed between two prefetches.
constexpr int kPrefetch = 1024, kStretch = 128;

// An operand, whose elements of a chunk are contiguous rows of the arithmetic's type: in place, or converted and copied
// to a buffer that stays in the first-level cache. The loop over them has no cases then.
template <class T>
class Operand {
 public:
  explicit Operand(const Input& input) : input_(input) {
    if (!input.data) return;
    const int last = input.dims - 1;
    const bool rows = input.stride[last] == 1 && last > 0 && input.size[last] <= kBlock;
    if (rows) ahead_ = (input.size[last] + kPrefetch - 1) / input.size[last] * input.stride[last - 1];
  }

  // Whether all its elements of a row's chunk are read in place, however the rows lie to each other.
  bool stays(int64_t event, Type wide) const {
    const int last = input_.dims - 1;
    return input_.type == wide && input_.stride[last] == 1 && input_.size[last] % event == 0;
  }

  Rows<const T> of(const Chunk& chunk, Type wide) {
    const Place place = place_of<T>(input_, chunk);
    in_place_ = place.found && input_.type == wide;
    if (in_place_) return {static_cast<const T*>(input_.data) + place.offset, place.step};
    const bool one_number = place.numbers && place.step == 0;
    const bool again = one_number && place.offset == copied_ && chunk.size <= copies_;
    if (!again) {
      copied_ = one_number ? place.offset : -1, copies_ = chunk.size;
      if (place.found) prefetch(place.offset, chunk.size);
      stage(input_, chunk.flat, chunk.size, wide, buffer_);
    }
    return {buffer_.data, chunk.count};
  }

  // Where elements that are read in place have others a row or more ahead: the processor's own prefetching stops at the
  // end of each row.
  int64_t ahead() const { return in_place_ ? ahead_ : 0; }

 private:
  void prefetch(int64_t offset, int count) const {
    const char* const later = static_cast<const char*>(input_.data) + (offset + ahead_) * size_of(input_.type);
    if (ahead_)
      for (int i = 0; i < count * size_of(input_.type); i += 64) __builtin_prefetch(later + i);
  }

  const Input& input_;
  int64_t ahead_ = 0, copied_ = -1;
  int copies_ = 0;
  bool in_place_ = false;
  Buffer<T> buffer_;
};

// Adapters that call a formula's value and gradient with operands and results in arrays.
template <int... i>
struct Indices {};
template <int arity>
struct IndicesOf;
template <>
struct IndicesOf<2> : Indices<0, 1> {};
template <>
struct IndicesOf<3> : Indices<0, 1, 2> {};
template <>
struct IndicesOf<4> : Indices<0, 1, 2, 3> {};

// A loop that is unrolled before the compiler allocates registers.
template <class Body, int... i>
AEVB_INLINE void each(Indices<i...>, Body body) {
  (body(i), ...);
}

template <class F, class N, int... i>
AEVB_INLINE N value_of(const F& f, const N* in, Indices<i...>) {
  return f.value(in[i]...);
}
template <class F, class N, int... i>
AEVB_INLINE void gradient_of(const F& f, const N* in, N* d, Indices<i...>) {
  f.gradient(in[i]..., d[i]...);
}
// Some formulas compute both at once, and the first operand's derivative apart: `of_first` says whether it is wanted.
template <class F, class N, int... i>
AEVB_INLINE void value_and_gradient_of(const F& f, const N* in, bool of_first, N& value, N* d, Indices<i...> all) {
  if constexpr (requires { f.value_and_gradient(of_first, value, in[i]..., d[i]...); }) {
    f.value_and_gradient(of_first, value, in[i]..., d[i]...);
  } else {
    value = value_of(f, in, all);
    gradient_of(f, in, d, all);
  }
}

// Whether two arrays that are streamed in step hinder each other. A processor gathers the parts of a line before it
// writes it, and tells lines apart by their place in a page: two at the same place took more than twice as long. A
// vector that is a whole line is not gathered.
inline bool collide(const void* a, const void* b) {
  const uintptr_t apart = (uintptr_t(a) - uintptr_t(b)) % 4096;
  return kVectorBytes < 64 && (apart < 64 || apart > 4096 - 64);
}

// Makes a call's formula where it is used; unless a spread is `any`, the compiler knows which of them it is.
constexpr Spread any_spread = Spread(-1);
template <class F, Spread known = any_spread>
struct Recipe {
  using Formula = F;

  AEVB_INLINE static F make(const Params& params) {
    const SpreadOf spread = {known == any_spread ? params.spread : known};
    if constexpr (!has_spread<F>)
      return {params.x_scale};
    else if constexpr (has_x_scale<F>)
      return {params.x_scale, spread};
    else
      return {spread};
  }
};

// Calls run(recipe), in which the compiler knows the spread: the usual one, or else the other. In float64, which is for
// checking, one loop serves all.
template <class T, class F, Spread usual, Spread other, class Run>
void with_spread(Spread given, Run run) {
  if constexpr (sizeof(T) == 8)
    run(Recipe<F>());
  else
    given == usual ? run(Recipe<F, usual>()) : run(Recipe<F, other>());
}

// The cotangents of a chunk, if each row has a single number (and not zero, which needs `chain`).
template <class T>
struct RowCotangents {
  Rows<const T> rows;
  Vec<T> scale, g;
  bool flat(int) const { return rows.step == 0; }
  AEVB_INLINE RowCotangents row(int r) const {
    return {rows, scale, Vec<T>(double(rows.first[r * rows.step])) * scale};
  }
  AEVB_INLINE Vec<T> operator()(int, Vec<T> derivative) const { return g * derivative; }
  RowCotangents padded(int, T*) const { return *this; }
};
template <class T>
struct Cotangents {
  Rows<const T> rows;
  Vec<T> scale;
  bool flat(int count) const { return rows.step == count; }
  AEVB_INLINE Cotangents row(int r) const { return {{rows.first + r * rows.step, rows.step}, scale}; }
  AEVB_INLINE Vec<T> operator()(int i, Vec<T> derivative) const {
    return chain(Vec<T>::load(rows.first + i) * scale, derivative);
  }
  Cotangents padded(int count, T* copy) const {
    Vec<T>::load(rows.first, count).store(copy);
    return {{copy, 0}, scale};
  }
};

// All operands and results of `rows` rows of `count` elements, which is at least a vector. The results are the value
// (where `values`), then the gradients.
template <class T, int operands, bool values, bool gradients>
struct Arrays {
  static constexpr int arity = operands, results = (values ? 1 : 0) + (gradients ? arity : 0);
  int rows, count;
  Rows<const T> in[arity];
  int64_t ahead[arity];
  Rows<T> to[results];  // null: not wanted, or a value of which only the sum is
  bool streamed[results];
  Rows<T> sum;  // of a row's values, added to what is there if `again`; null: not wanted
  bool again;
};

// The loop of a formula. Arguments are copies, which the compiler knows that no store changes.
template <class T, class Recipe, bool values, bool gradients, class Chain>
__attribute__((noinline)) void compute(const Arrays<T, Recipe::Formula::arity, values, gradients> arrays,
                                       const Params params, const Chain all_rows) {
  using N = Vec<T>;
  const auto formula = Recipe::make(params);
  constexpr int lanes = N::lanes, arity = arrays.arity, results = arrays.results;
  for (int r = 0; r < arrays.rows; ++r) {
    const Chain chained = all_rows.row(r);
    const T* in[arity];
    T* to[results];
    for (int k = 0; k < arity; ++k) in[k] = arrays.in[k].first + r * arrays.in[k].step;
    for (int k = 0; k < results; ++k) to[k] = arrays.to[k].first ? arrays.to[k].first + r * arrays.to[k].step : nullptr;
    // The last elements, fewer than a vector, are computed together with some before them. Their results are put
    // aside, and those before them stay: a result may have taken the place of an operand.
    alignas(64) T aside[results][lanes];
    N total(0.0);
    const int rest = arrays.count % lanes, whole = arrays.count - rest;
    for (int i = 0; i < arrays.count;) {
      const bool last = i == whole;
      int end = whole - i < kStretch ? whole : i + kStretch;
      if (last) {
        i = arrays.count - lanes, end = arrays.count;
        for (int k = 0; k < results; ++k)
          if (to[k]) to[k] = aside[k] - i;
      }
      for (int k = 0; k < arity; ++k)
        if (arrays.ahead[k])
          for (int at = i; at < end; at += 64 / sizeof(T)) __builtin_prefetch(in[k] + arrays.ahead[k] + at);
      // Each stretch has its own sum: a single sum over a long row of similar terms would lose a digit.
      N stretch(0.0);
      for (; i < end; i += lanes) {
        N operand[arity], derivative[arity];
        each(IndicesOf<arity>(), [&](int k) AEVB_INLINE_BODY { operand[k] = N::load(in[k] + i); });
        const auto put = [&](int k, N result) AEVB_INLINE_BODY {
          arrays.streamed[k] ? result.stream(to[k] + i) : result.store(to[k] + i);
        };
        N value;
        if constexpr (gradients)
          value_and_gradient_of(formula, operand, to[values], value, derivative, IndicesOf<arity>());
        else
          value = value_of(formula, operand, IndicesOf<arity>());
        if constexpr (values) {
          stretch = stretch + value;
          if (to[0]) put(0, value);
        }
        if constexpr (gradients) {
          each(IndicesOf<arity>(), [&](int k) AEVB_INLINE_BODY {
            if (to[values + k]) put(values + k, chained(i, derivative[k]));
          });
        }
      }
      total = total + (last ? stretch.last(rest, N(0.0)) : stretch);
    }
    for (int k = 0; k < results && rest; ++k)
      if (to[k]) {
        T* const at = arrays.to[k].first + r * arrays.to[k].step + arrays.count - lanes;
        N::load(aside[k]).last(rest, N::load(at)).store(at);
      }
    if (values && arrays.sum.first) add_to(arrays.sum.first + r * arrays.sum.step, arrays.again, sum(total));
  }
}

// The loops of a formula, of which a pass, which is the same for all formulas of so many operands, calls one.
template <class T, int arity, bool values, bool gradients>
struct Loops {
  template <class Chain>
  using Loop = void (*)(Arrays<T, arity, values, gradients>, Params, Chain);
  Loop<RowCotangents<T>> of_rows;
  Loop<Cotangents<T>> of_elements;
  Loop<RowCotangents<T>> with(const RowCotangents<T>&) const { return of_rows; }
  Loop<Cotangents<T>> with(const Cotangents<T>&) const { return of_elements; }
};
template <class T, class Recipe, bool values, bool gradients>
constexpr Loops<T, Recipe::Formula::arity, values, gradients> loops_of() {
  if constexpr (gradients)
    return {compute<T, Recipe, values, gradients, RowCotangents<T>>,
            compute<T, Recipe, values, gradients, Cotangents<T>>};
  else
    return {compute<T, Recipe, values, gradients, RowCotangents<T>>, nullptr};
}

template <class T, int arity, bool values, bool gradients>
class RowPass {
  using Arrays = AEVB_ISA::Arrays<T, arity, values, gradients>;
  using N = Vec<T>;
  static constexpr int results = Arrays::results;

 public:
  RowPass(const RowCall& call, const Loops<T, arity, values, gradients>& loops)
      : RowPass(call, loops, IndicesOf<arity>()) {}

  void run(int64_t begin, int64_t end) {
    const Tiles tile = tiles(call_.rows, call_.event, call_.blocks, call_.rows_per_sum());
    for (int64_t t = begin; t < end; ++t)
      for_each_chunk(call_, tile, t, [&](const Chunk& chunk) { one(chunk); }, limit_);
    if (call_.beyond_caches) finish_streams();
  }

 private:
  template <int... i>
  RowPass(const RowCall& call, const Loops<T, arity, values, gradients>& loops, Indices<i...>)
      : call_(call), loops_(loops), in_{Operand<T>(call.in[i])...}, cotangents_(call.cotangent) {
    if constexpr (values) output_[0] = &call.value;
    if constexpr (gradients)
      for (int k = 0; k < arity; ++k) output_[values + k] = &call.gradient[k];
    bool in_place = true;
    const auto holds = [&](bool condition) { in_place = in_place && condition; };
    for (int k = 0; k < arity; ++k) holds(in_[k].stays(call.event, call.wide));
    for (const Output* out : output_) {
      const Input* const layout = out->layout;
      const bool whole_rows =
          !layout || (layout->stride[layout->dims - 1] == 1 && layout->size[layout->dims - 1] % call.event == 0);
      holds(!out->data || (values && out == output_[0] && out->per_block) ||
            (whole_rows && !out->per_block && out->type == call.wide));
    }
    if (gradients && call.cotangent.data) {
      const Input& g = call.cotangent;
      holds(g.stride[g.dims - 1] == 0 && g.size[g.dims - 1] % call.event == 0);
    }
    limit_ = in_place ? kTile : kChunk;
    const auto at_least = [&](int tile) { limit_ = tile > limit_ ? tile : limit_; };
    if (!in_place) {
      at_least(tile_for(call.cotangent));
      for (int k = 0; k < arity; ++k) at_least(tile_for(call.in[k]));
      for (const Output* out : output_)
        if (out->layout) at_least(tile_for(*out->layout));
    }
  }

  void one(const Chunk& chunk) {
    Arrays arrays;
    for (int k = 0; k < arity; ++k) {
      arrays.in[k] = in_[k].of(chunk, call_.wide);
      arrays.ahead[k] = in_[k].ahead();
    }
    const N scale(call_.cotangent_scale);
    const Rows<const T> numbers = row_numbers(chunk);
    if (numbers.first)
      finish(chunk, arrays, RowCotangents<T>{numbers, scale, scale});
    else
      finish(chunk, arrays, Cotangents<T>{cotangents_.of(chunk, call_.wide), scale});
  }

  // The numbers that are the cotangents of a chunk's rows, if that is so and none is zero.
  Rows<const T> row_numbers(const Chunk& chunk) const {
    static constexpr T one = 1;
    if (!gradients || !call_.cotangent.data) return {&one, 0};
    const Place place = place_of<T>(call_.cotangent, chunk);
    if (!place.numbers) return {};
    const Rows<const T> numbers = {static_cast<const T*>(call_.cotangent.data) + place.offset, place.step};
    for (int r = 0; r < chunk.rows; ++r)
      if (numbers.first[r * place.step] == 0) return {};
    return numbers;
  }

  template <class Chain>
  void finish(const Chunk& chunk, Arrays& arrays, const Chain& chained) {
    arrays.rows = chunk.rows, arrays.count = chunk.count;
    // Values of rows shorter than a vector are written to a buffer and summed from there.
    const bool summed = values && output_[0]->per_block && goes_by_rows<T>(chunk);
    arrays.sum = {summed ? block_sum<T>(*output_[0], chunk, 0) : nullptr, chunk.blocks};
    arrays.again = chunk.first % kBlock;
    bool flat = !summed && chained.flat(chunk.count);
    for (int k = 0; k < arity; ++k) flat = flat && arrays.in[k].step == chunk.count;
    for (int k = 0; k < results; ++k) {
      const Output& output = *output_[k];
      arrays.to[k] = {};
      if (output.data && !(summed && k == 0)) arrays.to[k] = target(output, chunk, call_.wide, computed_[k]);
      flat = flat && (arrays.to[k].step == chunk.count || !arrays.to[k].first);
    }
    if (flat) arrays.rows = 1, arrays.count = chunk.size;
    for (int k = 0; k < results; ++k) {
      T* const first = arrays.to[k].first;
      const bool whole_vectors = uintptr_t(first) % sizeof(N) == 0 && arrays.count % N::lanes == 0 &&
                                 (arrays.rows == 1 || arrays.to[k].step % N::lanes == 0);
      arrays.streamed[k] = first && call_.beyond_caches && first != computed_[k].data && whole_vectors;
      for (int j = 0; j < k; ++j)
        if (arrays.streamed[j] && collide(arrays.to[j].first, first)) arrays.streamed[k] = false;
    }
    arrays.count < N::lanes ? short_run(arrays, chained) : loops_.with(chained)(arrays, call_.params, chained);
    for (int k = 0; k < results; ++k)
      if (arrays.to[k].first == computed_[k].data) deliver<true>(*output_[k], chunk, computed_[k], call_.beyond_caches);
  }

  // Fewer elements than a vector are computed as a whole one.
  template <class Chain>
  void short_run(const Arrays& arrays, const Chain& chained) {
    alignas(64) T in[arity][N::lanes], g[N::lanes], to[results][N::lanes];
    Arrays padded = {};
    padded.rows = 1, padded.count = N::lanes;
    for (int k = 0; k < arity; ++k) {
      N::load(arrays.in[k].first, arrays.count).store(in[k]);
      padded.in[k] = {in[k], 0};
    }
    for (int k = 0; k < results; ++k)
      if (arrays.to[k].first || (values && k == 0)) padded.to[k] = {to[k], 0};
    const auto as_many = chained.padded(arrays.count, g);
    loops_.with(as_many)(padded, call_.params, as_many);
    for (int k = 0; k < results; ++k)
      if (arrays.to[k].first) N::load(to[k]).store(arrays.to[k].first, arrays.count);
    if (arrays.sum.first) add_to(arrays.sum.first, arrays.again, sum(N::load(to[0]).first(arrays.count)));
  }

  const RowCall& call_;
  const Loops<T, arity, values, gradients> loops_;
  const Output* output_[results];
  int limit_;
  Operand<T> in_[arity], cotangents_;
  Buffer<T> computed_[results];
};

// Runs a call, whichever results it has a place for. Family::with_formula<T>(call, run) calls run(recipe) for the
// call's formula.
template <class Family, class T, bool values, bool gradients>
void run_rows(const RowCall& call, int64_t begin, int64_t end) {
  Family::template with_formula<T>(call, [&](auto recipe) {
    using Recipe = decltype(recipe);
    constexpr auto loops = loops_of<T, Recipe, values, gradients>();
    RowPass<T, Recipe::Formula::arity, values, gradients>(call, loops).run(begin, end);
  });
}

template <class Family, bool values, bool gradients>
void run_rows(const RowCall& call, int64_t begin, int64_t end) {
  call.wide == Type::f64 ? run_rows<Family, double, values, gradients>(call, begin, end)
                         : run_rows<Family, float, values, gradients>(call, begin, end);
}

template <class Family>
void run_rows(const RowCall& call, int64_t begin, int64_t end) {
  bool gradients = false;
  for (const Output& gradient : call.gradient) gradients = gradients || gradient.data;
  if (!call.value.data && !gradients) return;
  if (call.value.data && gradients) return run_rows<Family, true, true>(call, begin, end);
  gradients ? run_rows<Family, false, true>(call, begin, end) : run_rows<Family, true, false>(call, begin, end);
}

}  // namespace aevb::AEVB_ISA
