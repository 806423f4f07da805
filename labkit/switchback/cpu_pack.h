// Numbers in and out of vectors, absmax quantisation, and the order in which products read weights.
//
// An AMX tile of B wants its bytes in an order that VNNI shares: row r holds for each of 16 columns
// the four bytes k = 4r … 4r+3. A *panel* is 32 columns (rows of the matrix as stored) like that:
//
//     panel[half][k / 4][column 16][k % 4]        half = 0 or 1, zeros past N and past K

#pragma once

#include <type_traits>

#include "cpu_common.h"

namespace {

__mmask16 first(int64_t n) { return n >= 16 ? __mmask16(0xffff) : __mmask16((1u << n) - 1); }

// ---- numbers in and out: 16 at a time, as float32 --------------------------------------------

__m512 load(const float* p, __mmask16 m) { return _mm512_maskz_loadu_ps(m, p); }
__m512 load(const at::Half* p, __mmask16 m) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, p));
}
__m512 load(const at::BFloat16* p, __mmask16 m) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

void store(float* p, __m512 v, __mmask16 m) { _mm512_mask_storeu_ps(p, m, v); }
void store(at::Half* p, __m512 v, __mmask16 m) {
  _mm256_mask_storeu_epi16(p, m, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
void store(at::BFloat16* p, __m512 v, __mmask16 m) {
  // Half to even by hand: the instruction for it flushes subnormal numbers to zero.
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, up), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0));
  _mm256_mask_storeu_epi16(p, m, _mm512_cvtepi32_epi16(rounded));
}

// 32 numbers at once, without masks: what almost every store of a large product is.
void store(float* p, __m512 low, __m512 high) {
  _mm512_storeu_ps(p, low);
  _mm512_storeu_ps(p + 16, high);
}
template <typename T>
void store(T* p, __m512 low, __m512 high) {
#ifdef __AVX512BF16__
  if constexpr (std::is_same_v<T, at::BFloat16>) {  // one instruction; below 2⁻¹²⁶ it gives zero
    const __m512bh both = _mm512_cvtne2ps_pbh(high, low);
    std::memcpy(p, &both, sizeof both);
    return;
  }
#endif
  store(p, low, first(16));
  store(p + 16, high, first(16));
}

// Magnitudes compare as unsigned integers, and there a NaN is above infinity and is kept.
__m512i magnitude(__m512 v) {
  return _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff));
}
__m128i quantize(__m512 v, __m512 scale) {
  return _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(v, scale)));
}

// ---- quantisation ----------------------------------------------------------------------------

template <typename T>
uint32_t largest(const T* x, int64_t n) {
  __m512i most = _mm512_setzero_si512();
  for (int64_t k = 0; k < n; k += 16)
    most = _mm512_max_epu32(most, magnitude(load(x + k, first(n - k))));
  return _mm512_reduce_max_epu32(most);
}

template <typename T>
void quantize_row(const T* x, int8_t* q, int64_t n, float absmax) {
  const __m512 scale = _mm512_set1_ps(127.0f / absmax);
  for (int64_t k = 0; k < n; k += 16) {
    const __mmask16 m = first(n - k);
    _mm_mask_storeu_epi8(q + k, m, quantize(load(x + k, m), scale));
  }
}

template <typename T>
void dequantize_row(const int8_t* q, T* x, int64_t n, float scale) {
  for (int64_t k = 0; k < n; k += 16) {
    const __mmask16 m = first(n - k);
    const __m512i wide = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(m, q + k));
    store(x + k, _mm512_mul_ps(_mm512_cvtepi32_ps(wide), _mm512_set1_ps(scale)), m);
  }
}

// Absmax of columns k0 … of x [M, K], as many as `count` panels hold.
template <typename T>
void column_absmax(const T* x, float* absmax, int64_t k0, int64_t count, int64_t M, int64_t K) {
  __mmask16 in[2 * COLUMN_PANELS];
  __m512i most[2 * COLUMN_PANELS];
  for (int64_t c = 0; c < 2 * count; ++c) {
    in[c] = K > k0 + 16 * c ? first(K - k0 - 16 * c) : __mmask16(0);
    most[c] = _mm512_setzero_si512();
  }
  for (int64_t m = 0; m < M; ++m)
    for (int64_t c = 0; c < 2 * count; ++c)
      most[c] = _mm512_max_epu32(most[c], magnitude(load(x + m * K + k0 + 16 * c, in[c])));
  for (int64_t c = 0; c < 2 * count; ++c) {
    alignas(64) uint32_t found[16];
    _mm512_store_si512(found, most[c]);
    for (int64_t k = k0 + 16 * c; k < std::min(K, k0 + 16 * (c + 1)); ++k)
      absmax[k] = at_least_tiny(found[k - k0 - 16 * c]);
  }
}

// ---- the product -----------------------------------------------------------------------------

// Transpose 16 rows of 16 words of 32 bits, as above.
void transpose_16x16(__m512i r[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 4) {  // within lanes of 128 bits: 4 × 4
    const __m512i a = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    const __m512i b = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    const __m512i c = _mm512_unpacklo_epi32(r[i + 2], r[i + 3]);
    const __m512i d = _mm512_unpackhi_epi32(r[i + 2], r[i + 3]);
    t[i] = _mm512_unpacklo_epi64(a, c), t[i + 1] = _mm512_unpackhi_epi64(a, c);
    t[i + 2] = _mm512_unpacklo_epi64(b, d), t[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
  for (int i = 0; i < 4; ++i) {  // then the lanes themselves
    const __m512i a = _mm512_shuffle_i32x4(t[i], t[i + 4], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(t[i], t[i + 4], 0xdd);
    const __m512i c = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0x88);
    const __m512i d = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0xdd);
    r[i] = _mm512_shuffle_i32x4(a, c, 0x88), r[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88), r[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

// Where a panel's numbers come from: 64 of the inner dimension, k and on, of row n as int8.
struct Integers {
  const int8_t* b;
  int64_t K;
  __m512i operator()(int64_t n, int64_t k) const {
    const __mmask64 in_k = K - k >= 64 ? ~0ull : (1ull << (K - k)) - 1;
    return _mm512_maskz_loadu_epi8(in_k, b + n * K + k);
  }
};
template <typename T>
struct Quantized {  // absmax: one a row, or with stride 0 one for all
  const T* w;
  const float* absmax;
  int64_t K, stride;
  __m512i operator()(int64_t n, int64_t k) const {
    const __m512 scale = _mm512_set1_ps(127.0f / absmax[n * stride]);
    __m512i q = _mm512_setzero_si512();
    const auto part = [&](int64_t i) {
      const __mmask16 m = K - k > 16 * i ? first(K - k - 16 * i) : __mmask16(0);
      return quantize(load(w + n * K + k + 16 * i, m), scale);
    };
    q = _mm512_inserti32x4(q, part(0), 0);
    q = _mm512_inserti32x4(q, part(1), 1);
    q = _mm512_inserti32x4(q, part(2), 2);
    return _mm512_inserti32x4(q, part(3), 3);
  }
};

// Rows n0 … n0 + 31 of B [N, K] as a panel of 2 × deep × 16 bytes, deep = K rounded up.
template <typename Source>
void pack_panel(const Source& source, int64_t n0, int64_t N, int64_t deep, int8_t* panel) {
  for (int64_t half = 0; half < 2; ++half, panel += deep * 16)
    for (int64_t k = 0; k < deep; k += DEPTH) {
      __m512i rows[16];
      for (int64_t i = 0; i < 16; ++i) {
        const int64_t n = n0 + 16 * half + i;
        rows[i] = n < N ? source(n, k) : _mm512_setzero_si512();
      }
      transpose_16x16(rows);
      for (int64_t i = 0; i < 16; ++i) _mm512_storeu_si512(panel + k * 16 + i * 64, rows[i]);
    }
}

// Columns k0 … of w [N, K] as `count` panels of B = Wᵀ, whose inner dimension is N: four rows of w
// are interleaved, and nothing has to be transposed. Several panels at a time, because a row of
// them lies together in w.
template <typename T>
void pack_panels_of_columns(const T* w, const float* absmax, bool per_column, int64_t k0,
                            int64_t count, int64_t N, int64_t K, int64_t deep, int8_t* panels) {
  __mmask16 in[2 * COLUMN_PANELS];
  __m512 scale[2 * COLUMN_PANELS];
  for (int64_t c = 0; c < 2 * count; ++c) {
    float scales[16];
    for (int64_t j = 0; j < 16; ++j)
      scales[j] = 127.0f / absmax[per_column ? std::min(k0 + 16 * c + j, K - 1) : 0];
    scale[c] = _mm512_loadu_ps(scales);
    in[c] = K > k0 + 16 * c ? first(K - k0 - 16 * c) : __mmask16(0);
  }
  for (int64_t n = 0; n < deep; n += 4)
    for (int64_t c = 0; c < 2 * count; ++c) {
      __m128i rows[4];
      for (int64_t j = 0; j < 4; ++j)
        rows[j] = n + j < N ? quantize(load(w + (n + j) * K + k0 + 16 * c, in[c]), scale[c])
                            : _mm_setzero_si128();
      const __m128i a = _mm_unpacklo_epi8(rows[0], rows[1]), b = _mm_unpackhi_epi8(rows[0], rows[1]);
      const __m128i d = _mm_unpacklo_epi8(rows[2], rows[3]), e = _mm_unpackhi_epi8(rows[2], rows[3]);
      __m128i* to = reinterpret_cast<__m128i*>(panels + c * deep * 16 + n * 16);
      _mm_storeu_si128(to, _mm_unpacklo_epi16(a, d));
      _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(a, d));
      _mm_storeu_si128(to + 2, _mm_unpacklo_epi16(b, e));
      _mm_storeu_si128(to + 3, _mm_unpackhi_epi16(b, e));
    }
}

}  // namespace
