// The parts of cpu_pack.h for processors with AVX2 and nothing newer: 8 numbers at a time.
//
// VPMADDWD multiplies pairs of 16-bit integers and adds each two products in int32, exactly. So
// what a panel keeps together is a pair along the inner dimension, k and k + 1, of each of 16
// columns (rows of the matrix as stored); two such halves make a panel of the usual size:
//
//     panel[half][k / 2][column 16][k % 2]        half = 0 or 1, zeros past N and past K

#pragma once

#include "cpu_common.h"

namespace {

// ---- numbers in and out: 8 at a time, as float32; n counts those that exist ------------------

__m128i halves(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
__m256 whole8(const float* p) { return _mm256_loadu_ps(p); }
__m256 whole8(const at::Half* p) { return _mm256_cvtph_ps(halves(p)); }
__m256 whole8(const at::BFloat16* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves(p)), 16));
}
template <typename T>
__m256 load(const T* p, int64_t n) {
  if (n >= 8) return whole8(p);
  T few[8] = {};
  if (n > 0) std::memcpy(few, p, n * sizeof(T));
  return whole8(few);
}

void store8(float* p, __m256 v) { _mm256_storeu_ps(p, v); }
void store8(at::Half* p, __m256 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
void store8(at::BFloat16* p, __m256 v) {  // half to even, by hand
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, up), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i r = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1)));
}
template <typename T>
void store(T* p, __m256 v, int64_t n) {
  if (n >= 8) return store8(p, v);
  T few[8];
  store8(few, v);
  if (n > 0) std::memcpy(p, few, n * sizeof(T));
}

// Magnitudes compare as unsigned integers, and there a NaN is above infinity and is kept.
__m256i magnitude(__m256 v) {
  return _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fffffff));
}
// 16 numbers as int8, from two vectors that are scaled already.
__m128i quantize(__m256 low, __m256 high) {
  const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(low), _mm256_cvtps_epi32(high));
  const __m256i in_order = _mm256_permute4x64_epi64(words, 0xd8);
  return _mm_packs_epi16(_mm256_castsi256_si128(in_order), _mm256_extracti128_si256(in_order, 1));
}
template <typename T>
__m128i quantize(const T* x, int64_t n, __m256 scale_low, __m256 scale_high) {
  return quantize(_mm256_mul_ps(load(x, n), scale_low), _mm256_mul_ps(load(x + 8, n - 8), scale_high));
}

// ---- quantisation ----------------------------------------------------------------------------

template <typename T>
uint32_t largest(const T* x, int64_t n) {
  __m256i most[2] = {};
  for (int64_t k = 0; k < n; k += 16) {
    most[0] = _mm256_max_epu32(most[0], magnitude(load(x + k, n - k)));
    most[1] = _mm256_max_epu32(most[1], magnitude(load(x + k + 8, n - k - 8)));
  }
  alignas(32) uint32_t found[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(found), _mm256_max_epu32(most[0], most[1]));
  return *std::max_element(found, found + 8);
}

template <typename T>
void quantize_row(const T* x, int8_t* q, int64_t n, float absmax) {
  const __m256 scale = _mm256_set1_ps(127.0f / absmax);
  for (int64_t k = 0; k < n; k += 16) {
    const __m128i some = quantize(x + k, n - k, scale, scale);
    if (n - k >= 16)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(q + k), some);
    else
      std::memcpy(q + k, &some, n - k);
  }
}

template <typename T>
void dequantize_row(const int8_t* q, T* x, int64_t n, float scale) {
  for (int64_t k = 0; k < n; k += 8) {
    int64_t eight = 0;
    std::memcpy(&eight, q + k, std::min<int64_t>(8, n - k));
    const __m256i wide = _mm256_cvtepi8_epi32(_mm_cvtsi64_si128(eight));
    store(x + k, _mm256_mul_ps(_mm256_cvtepi32_ps(wide), _mm256_set1_ps(scale)), n - k);
  }
}

// Absmax of columns k0 … of x [M, K], as many as `count` panels hold.
template <typename T>
void column_absmax(const T* x, float* absmax, int64_t k0, int64_t count, int64_t M, int64_t K) {
  constexpr int64_t EIGHTS = BLOCK / 8;
  const int64_t vectors = EIGHTS * count;
  __m256i most[EIGHTS * COLUMN_PANELS] = {};
  for (int64_t m = 0; m < M; ++m)
    for (int64_t c = 0; c < vectors; ++c) {
      const int64_t k = k0 + 8 * c;
      most[c] = _mm256_max_epu32(most[c], magnitude(load(x + m * K + k, K - k)));
    }
  for (int64_t c = 0; c < vectors; ++c) {
    alignas(32) uint32_t found[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(found), most[c]);
    for (int64_t k = k0 + 8 * c; k < std::min(K, k0 + 8 * (c + 1)); ++k)
      absmax[k] = at_least_tiny(found[k - k0 - 8 * c]);
  }
}

// ---- panels ----------------------------------------------------------------------------------

// Transpose 8 rows of 8 pairs of bytes.
void transpose_8x8(__m128i r[8]) {
  __m128i s[8], t[8];
  for (int i = 0; i < 4; ++i) {
    s[2 * i] = _mm_unpacklo_epi16(r[2 * i], r[2 * i + 1]);
    s[2 * i + 1] = _mm_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; ++j) {
      t[i + 2 * j] = _mm_unpacklo_epi32(s[i + j], s[i + j + 2]);
      t[i + 2 * j + 1] = _mm_unpackhi_epi32(s[i + j], s[i + j + 2]);
    }
  for (int i = 0; i < 4; ++i) {
    r[2 * i] = _mm_unpacklo_epi64(t[i], t[i + 4]);
    r[2 * i + 1] = _mm_unpackhi_epi64(t[i], t[i + 4]);
  }
}

// Where a panel's numbers come from: 16 of the inner dimension, k and on, of row n as int8.
__m128i sixteen(const int8_t* from, int64_t n) {
  if (n >= 16) return halves(from);
  alignas(16) int8_t few[16] = {};
  if (n > 0) std::memcpy(few, from, n);
  return halves(few);
}
struct Integers {
  const int8_t* b;
  int64_t K;
  __m128i operator()(int64_t n, int64_t k) const { return sixteen(b + n * K + k, K - k); }
};
template <typename T>
struct Quantized {  // absmax: one a row, or with stride 0 one for all
  const T* w;
  const float* absmax;
  int64_t K, stride;
  __m128i operator()(int64_t n, int64_t k) const {
    const __m256 scale = _mm256_set1_ps(127.0f / absmax[n * stride]);
    return quantize(w + n * K + k, K - k, scale, scale);
  }
};

// Rows n0 … n0 + 31 of B [N, K] as a panel of 2 × deep × 16 bytes, deep = K rounded up.
template <typename Source>
void pack_panel(const Source& source, int64_t n0, int64_t N, int64_t deep, int8_t* panel) {
  for (int64_t eight = 0; eight < 4; ++eight) {
    int8_t* to = panel + eight / 2 * deep * 16 + eight % 2 * 16;
    for (int64_t k = 0; k < deep; k += 16, to += 256) {
      __m128i rows[8];
      for (int64_t i = 0; i < 8; ++i) {
        const int64_t n = n0 + 8 * eight + i;
        rows[i] = n < N ? source(n, k) : _mm_setzero_si128();
      }
      transpose_8x8(rows);
      for (int64_t i = 0; i < 8; ++i)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 32 * i), rows[i]);
    }
  }
}

// Columns k0 … of w [N, K] as `count` panels of B = Wᵀ, whose inner dimension is N: two rows of w
// are interleaved, and nothing has to be transposed. Several panels at a time, because a row of
// them lies together in w.
template <typename T>
void pack_panels_of_columns(const T* w, const float* absmax, bool per_column, int64_t k0,
                            int64_t count, int64_t N, int64_t K, int64_t deep, int8_t* panels) {
  alignas(32) float scale[BLOCK * COLUMN_PANELS];
  for (int64_t j = 0; j < BLOCK * count; ++j)
    scale[j] = 127.0f / absmax[per_column ? std::min(k0 + j, K - 1) : 0];
  for (int64_t n = 0; n < deep; n += 2)
    for (int64_t c = 0; c < 2 * count; ++c) {
      const int64_t k = k0 + 16 * c;
      const __m256 low = _mm256_load_ps(scale + 16 * c), high = _mm256_load_ps(scale + 16 * c + 8);
      const auto row = [&](int64_t i) {
        return i < N ? quantize(w + i * K + k, K - k, low, high) : _mm_setzero_si128();
      };
      const __m128i even = row(n), odd = row(n + 1);
      __m128i* to = reinterpret_cast<__m128i*>(panels + c * deep * 16 + n * 16);
      _mm_storeu_si128(to, _mm_unpacklo_epi8(even, odd));
      _mm_storeu_si128(to + 1, _mm_unpackhi_epi8(even, odd));
    }
}

}  // namespace
