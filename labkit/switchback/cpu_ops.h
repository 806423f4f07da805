// What Python calls, for every kind of processor: cpu.py has prepared the arguments, which are
// contiguous and on the CPU.
//
// The source that includes this comes first with what differs: `largest`, `quantize_row` and
// `dequantize_row`, `column_absmax`, `pack_panel` and `pack_panels_of_columns` with `Integers` and
// `Quantized`, `multiply` with `Raw` and `Scaled`, and LABKIT_LIBRARY, the operators' namespace.

#pragma once

#include "cpu_common.h"

namespace {

template <typename T>
void rowwise(const T* x, int8_t* q, float* absmax, int64_t M, int64_t K) {
  at::parallel_for(0, M, grain(K), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      absmax[m] = at_least_tiny(largest(x + m * K, K));
      quantize_row(x + m * K, q + m * K, K, absmax[m]);
    }
  });
}

template <typename T>
float global_absmax(const T* x, int64_t n) {
  const int64_t piece = 65536, pieces = (n + piece - 1) / piece;
  std::vector<uint32_t> found(pieces, 0);
  at::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      found[i] = largest(x + i * piece, std::min(piece, n - i * piece));
  });
  return at_least_tiny(pieces ? *std::max_element(found.begin(), found.end()) : 0);
}

template <typename T>
void whole(const T* x, int8_t* q, float absmax, int64_t n) {
  const int64_t piece = 65536, pieces = (n + piece - 1) / piece;
  at::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      quantize_row(x + i * piece, q + i * piece, std::min(piece, n - i * piece), absmax);
  });
}

template <typename F>
void by_type(at::ScalarType type, F f) {
  if (type == at::kFloat) return f(float());
  if (type == at::kBFloat16) return f(at::BFloat16());
  TORCH_CHECK(type == at::kHalf, "float32, bfloat16 or float16, not ", type);
  f(at::Half());
}

Tensor floats(const Tensor& x, at::IntArrayRef shape) {
  return at::empty(shape, x.options().dtype(at::kFloat));
}

std::tuple<Tensor, Tensor> quantize_rowwise(const Tensor& x) {
  Tensor q = at::empty(x.sizes(), x.options().dtype(at::kChar)), absmax = floats(x, {x.size(0)});
  by_type(x.scalar_type(), [&](auto t) {
    rowwise(x.const_data_ptr<decltype(t)>(), q.mutable_data_ptr<int8_t>(),
            absmax.mutable_data_ptr<float>(), x.size(0), x.size(1));
  });
  return {q, absmax};
}

std::tuple<Tensor, Tensor> quantize_global(const Tensor& x) {
  Tensor q = at::empty(x.sizes(), x.options().dtype(at::kChar)), absmax = floats(x, {});
  by_type(x.scalar_type(), [&](auto t) {
    const auto* data = x.const_data_ptr<decltype(t)>();
    float* scale = absmax.mutable_data_ptr<float>();
    *scale = global_absmax(data, x.numel());
    whole(data, q.mutable_data_ptr<int8_t>(), *scale, x.numel());
  });
  return {q, absmax};
}

// Uninitialised panels for B [N, K].
Tensor panels_for(int64_t N, int64_t K, const Tensor& like) {
  const int64_t bytes = BLOCK * round_up(K, DEPTH), panels = (N + BLOCK - 1) / BLOCK;
  return at::empty({panels, bytes}, like.options().dtype(at::kChar));
}

// Call `fill(p, count, where)` for groups of up to `together` panels, p and on.
template <typename F>
void fill_panels(const Tensor& panels, int64_t together, F fill) {
  int8_t* to = panels.mutable_data_ptr<int8_t>();
  const int64_t number = panels.size(0), groups = (number + together - 1) / together;
  at::parallel_for(0, groups, grain(together * panels.size(1)), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin * together; p < std::min(end * together, number); p += together)
      fill(p, std::min(together, number - p), to + p * panels.size(1));
  });
}

Tensor pack(const Tensor& b) {
  const int64_t N = b.size(0), K = b.size(1), deep = round_up(K, DEPTH);
  const Integers source{b.const_data_ptr<int8_t>(), K};
  Tensor panels = panels_for(N, K, b);
  fill_panels(panels, 1, [&](int64_t p, int64_t, int8_t* to) {
    pack_panel(source, p * BLOCK, N, deep, to);
  });
  return panels;
}

// Quantise w [N, K] and pack it for Y = X·Wᵀ, or transposed for dX = G·W: panels and absmax.
std::tuple<Tensor, Tensor> pack_weight(const Tensor& w, bool per_row, bool transpose) {
  const int64_t N = w.size(0), K = w.size(1);
  Tensor absmax = per_row ? floats(w, {transpose ? K : N}) : floats(w, {});
  Tensor panels = transpose ? panels_for(K, N, w) : panels_for(N, K, w);
  by_type(w.scalar_type(), [&](auto t) {
    using T = decltype(t);
    const T* data = w.const_data_ptr<T>();
    float* scales = absmax.mutable_data_ptr<float>();
    if (!per_row) *scales = global_absmax(data, N * K);
    if (transpose) {
      fill_panels(panels, COLUMN_PANELS, [&](int64_t p, int64_t count, int8_t* to) {
        const int64_t deep = round_up(N, DEPTH);
        // These columns stay in the second-level cache between their absmax and their packing.
        if (per_row) column_absmax(data, scales, p * BLOCK, count, N, K);
        pack_panels_of_columns(data, scales, per_row, p * BLOCK, count, N, K, deep, to);
      });
    } else {
      fill_panels(panels, 1, [&](int64_t p, int64_t, int8_t* to) {
        const int64_t n0 = p * BLOCK;
        for (int64_t n = n0; per_row && n < std::min(n0 + BLOCK, N); ++n)
          scales[n] = at_least_tiny(largest(data + n * K, K));
        pack_panel(Quantized<T>{data, scales, K, per_row}, n0, N, round_up(K, DEPTH), to);
      });
    }
  });
  return {panels, absmax};
}

Tensor int8_mm(const Tensor& a, const Tensor& b, bool amx) {
  Tensor y = at::empty({a.size(0), b.size(0)}, a.options().dtype(at::kInt));
  if (y.numel()) multiply(amx, a, pack(b), b.size(0), y, Raw{});
  return y;
}

Tensor packed_mm(const Tensor& a, const Tensor& panels, const Tensor& a_absmax,
                 const Tensor& b_absmax, const std::optional<Tensor>& bias, int64_t out_features,
                 at::ScalarType out_dtype, bool amx) {
  Tensor y = at::empty({a.size(0), out_features}, a.options().dtype(out_dtype));
  if (!y.numel()) return y;
  by_type(out_dtype, [&](auto t) {
    const Scaled<decltype(t)> finish{a_absmax.const_data_ptr<float>(),
                                     b_absmax.const_data_ptr<float>(),
                                     bias ? bias->const_data_ptr<float>() : nullptr,
                                     b_absmax.dim() == 1};
    multiply(amx, a, panels, out_features, y, finish);
  });
  return y;
}

Tensor scaled_int8_mm(const Tensor& a, const Tensor& b, const Tensor& a_absmax,
                      const Tensor& b_absmax, const std::optional<Tensor>& bias,
                      at::ScalarType out_dtype, bool amx) {
  return packed_mm(a, pack(b), a_absmax, b_absmax, bias, b.size(0), out_dtype, amx);
}

Tensor dequantize_rowwise(const Tensor& q, const Tensor& absmax, at::ScalarType out_dtype) {
  Tensor y = at::empty(q.sizes(), q.options().dtype(out_dtype));
  const int64_t M = q.size(0), K = q.size(1);
  const int8_t* in = q.const_data_ptr<int8_t>();
  const float* scales = absmax.const_data_ptr<float>();
  by_type(out_dtype, [&](auto t) {
    auto* out = y.mutable_data_ptr<decltype(t)>();
    at::parallel_for(0, M, grain(K), [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m)
        dequantize_row(in + m * K, out + m * K, K, scales[m] * float(1.0 / 127));
    });
  });
  return y;
}

}  // namespace

// A fragment, because only that macro takes the namespace from another one.
TORCH_LIBRARY_FRAGMENT(LABKIT_LIBRARY, m) {
  m.def("quantize_rowwise(Tensor x) -> (Tensor, Tensor)");
  m.def("quantize_global(Tensor x) -> (Tensor, Tensor)");
  m.def("int8_mm(Tensor a, Tensor b, bool amx) -> Tensor");
  m.def("pack_weight(Tensor w, bool per_row, bool transpose) -> (Tensor, Tensor)");
  m.def(
      "packed_mm(Tensor a, Tensor panels, Tensor a_absmax, Tensor b_absmax, Tensor? bias, "
      "int out_features, ScalarType out_dtype, bool amx) -> Tensor");
  m.def(
      "scaled_int8_mm(Tensor a, Tensor b, Tensor a_absmax, Tensor b_absmax, Tensor? bias, "
      "ScalarType out_dtype, bool amx) -> Tensor");
  m.def("dequantize_rowwise(Tensor q, Tensor absmax, ScalarType out_dtype) -> Tensor");
}

TORCH_LIBRARY_IMPL(LABKIT_LIBRARY, CPU, m) {
  m.impl("quantize_rowwise", quantize_rowwise);
  m.impl("quantize_global", quantize_global);
  m.impl("int8_mm", int8_mm);
  m.impl("pack_weight", pack_weight);
  m.impl("packed_mm", packed_mm);
  m.impl("scaled_int8_mm", scaled_int8_mm);
  m.impl("dequantize_rowwise", dequantize_rowwise);
}
