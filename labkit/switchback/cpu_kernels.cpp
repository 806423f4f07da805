// The operations of reference.py for x86 processors with AVX-512 VNNI, and AMX where there is one.
//
// Shapes: M rows (tokens), K inner dimension, N output features. Every product is A·Bᵀ with both
// operands int8 and the inner dimension contiguous.
//
// An AMX tile is 16 rows of 64 bytes. TDPBSSD multiplies a tile of A, 16 rows × 64 of k, by a tile
// of B and adds to 16 × 16 sums in int32; two by two tiles make a block of sums, which takes all
// eight registers. Rows of A are read where they lie, B in panels (cpu_pack.h). A chunk of A and a
// panel of B stay in the second-level cache while they are used. A block of sums leaves the tiles
// once; it is scaled, biased and rounded by the vector unit while the tile unit fills the next one.
//
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18 (AMX)
// and volume 2, TDPBSSD and VPDPBUSD.

#include "cpu_pack.h"

#define LABKIT_LIBRARY labkit_int8

namespace {

constexpr int64_t CHUNK_BYTES = 1 << 19;  // of A: a quarter of a second-level cache

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {};
  uint8_t rows[16] = {};
  TileConfig() {
    for (int t = 0; t < 8; ++t) bytes_per_row[t] = 64, rows[t] = 16;
  }
};

enum class Unit { AMX_INT8, AMX_BF16, VNNI };

// Where the tiles of A lie, in bytes: rows within a tile, tiles along k, the second 16 rows, blocks.
struct Layout {
  int64_t row, along, second, block;
  static Layout plain(int64_t deep) { return {deep, DEPTH, 16 * deep, BLOCK * deep}; }
  static Layout panels(int64_t deep) { return {DEPTH, 16 * DEPTH, 16 * deep, BLOCK * deep}; }
};

// sums [32, 32] = a [32, deep] · panelᵀ. The tile unit works alone: `meanwhile` is called at every
// step, for what other units can do.
template <Unit UNIT, typename F>
void block_amx(const int8_t* a, const Layout& at, const int8_t* panel, int64_t deep, int32_t* sums,
               F meanwhile) {
  const int8_t* right = panel + deep * 16;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t k = 0; k < deep; k += DEPTH, a += at.along) {
    _tile_loadd(4, a, at.row);
    _tile_loadd(5, a + at.second, at.row);
    _tile_loadd(6, panel + k * 16, 64);
    _tile_loadd(7, right + k * 16, 64);
    if constexpr (UNIT == Unit::AMX_INT8) {
      _tile_dpbssd(0, 4, 6);
      _tile_dpbssd(1, 4, 7);
      _tile_dpbssd(2, 5, 6);
      meanwhile();
      _tile_dpbssd(3, 5, 7);
    } else {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      meanwhile();
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, 128);
  _tile_stored(1, sums + 16, 128);
  _tile_stored(2, sums + 512, 128);
  _tile_stored(3, sums + 528, 128);
}

// The same without AMX. VPDPBUSD takes unsigned bytes on the left: 128 is added to every byte of a
// (its highest bit flipped), and 128 · Σ b, in `excess`, is taken off again. Wrap-around is exact.
void block_vnni(const int8_t* a, int64_t stride, const int8_t* panel, int64_t deep,
                const __m512i excess[2], int32_t* sums) {
  const int8_t* right = panel + deep * 16;
  for (int i = 0; i < 32; i += 8) {
    __m512i sum[8][2] = {};
    for (int64_t k = 0; k < deep; k += 4) {
      const __m512i b0 = _mm512_loadu_si512(panel + k * 16), b1 = _mm512_loadu_si512(right + k * 16);
      for (int j = 0; j < 8; ++j) {
        int32_t four;
        std::memcpy(&four, a + (i + j) * stride + k, 4);
        const __m512i left = _mm512_set1_epi32(four ^ int32_t(0x80808080));
        sum[j][0] = _mm512_dpbusd_epi32(sum[j][0], left, b0);
        sum[j][1] = _mm512_dpbusd_epi32(sum[j][1], left, b1);
      }
    }
    for (int j = 0; j < 8; ++j)
      for (int h = 0; h < 2; ++h)
        _mm512_storeu_si512(sums + (i + j) * 32 + 16 * h, _mm512_sub_epi32(sum[j][h], excess[h]));
  }
}

void panel_excess(const int8_t* panel, int64_t deep, __m512i excess[2]) {
  for (int half = 0; half < 2; ++half) {
    excess[half] = _mm512_setzero_si512();
    for (int64_t k = 0; k < deep; k += 4)
      excess[half] = _mm512_dpbusd_epi32(excess[half], _mm512_set1_epi32(int32_t(0x80808080)),
                                         _mm512_loadu_si512(panel + half * deep * 16 + k * 16));
  }
}

// What becomes of the sums of row m, columns n and on: written as they are, or scaled and rounded.
struct Raw {
  using Out = int32_t;
  void some(const int32_t* sums, int64_t, int64_t, __mmask16 in, int32_t* y) const {
    _mm512_mask_storeu_epi32(y, in, _mm512_load_si512(sums));
  }
  void block(const int32_t* sums, int64_t, int64_t, int32_t* y) const {
    std::memcpy(y, sums, BLOCK * sizeof *y);
  }
};
template <typename T>
struct Scaled {
  using Out = T;
  const float *a_absmax, *b_absmax, *bias;
  bool per_row;  // one scale a row of B, or one for all of it
  __m512 scaled(const int32_t* sums, __m512 left, __m512 right) const {
    return _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums)), left), right);
  }
  __m512 left(int64_t m) const { return _mm512_set1_ps(a_absmax[m] * float(1.0 / (127 * 127))); }
  void some(const int32_t* sums, int64_t m, int64_t n, __mmask16 in, T* y) const {
    const __m512 right = per_row ? load(b_absmax + n, in) : _mm512_set1_ps(*b_absmax);
    __m512 v = scaled(sums, left(m), right);
    if (bias) v = _mm512_add_ps(v, load(bias + n, in));
    store(y, v, in);
  }
  void block(const int32_t* sums, int64_t m, int64_t n, T* y) const {
    const float* right = per_row ? b_absmax + n : nullptr;
    const __m512 same = _mm512_set1_ps(*b_absmax);
    __m512 low = scaled(sums, left(m), right ? _mm512_loadu_ps(right) : same);
    __m512 high = scaled(sums + 16, left(m), right ? _mm512_loadu_ps(right + 16) : same);
    if (bias) {
      low = _mm512_add_ps(low, _mm512_loadu_ps(bias + n));
      high = _mm512_add_ps(high, _mm512_loadu_ps(bias + n + 16));
    }
    store(y, low, high);
  }
};

template <typename T>
struct Floats {  // sums that are float32 already
  using Out = T;
  static __m512 sum(const int32_t* p) { return _mm512_castsi512_ps(_mm512_load_si512(p)); }
  void some(const int32_t* sums, int64_t, int64_t, __mmask16 in, T* y) const {
    store(y, sum(sums), in);
  }
  void block(const int32_t* sums, int64_t, int64_t, T* y) const {
    store(y, sum(sums), sum(sums + 16));
  }
};

// a [M, K] with rows of `deep` bytes and whole blocks of rows: a tile always reads whole.
at::Tensor pad(const Tensor& a, int64_t deep) {
  const int64_t M = a.size(0), K = a.size(1);
  Tensor padded = at::zeros({round_up(M, BLOCK), deep}, a.options());
  const int8_t* from = a.const_data_ptr<int8_t>();
  int8_t* to = padded.mutable_data_ptr<int8_t>();
  for (int64_t m = 0; m < M; ++m) std::memcpy(to + m * deep, from + m * K, K);
  return padded;
}

// y [M, N] = finish(A · Bᵀ): A as `at` says, B in panels, `deep` bytes of the inner dimension.
template <Unit UNIT, typename Finish>
void multiply(const int8_t* left, const Layout& at, const int8_t* right, int64_t M, int64_t N,
              int64_t deep, typename Finish::Out* y, const Finish& finish) {
  constexpr bool AMX = UNIT != Unit::VNNI;
  const int64_t blocks = (M + BLOCK - 1) / BLOCK, panels = (N + BLOCK - 1) / BLOCK;
  // A chunk of a's rows stays in the second-level cache while every panel passes over it.
  const int64_t fit = std::max<int64_t>(4, CHUNK_BYTES / (BLOCK * deep));
  const int64_t chunk = std::min(blocks, fit);
  const int64_t chunks = (blocks + chunk - 1) / chunk, steps = deep / DEPTH;
  at::parallel_for(0, chunks * panels, 1, [&](int64_t begin, int64_t end) {
    // Two sets of sums: while tiles fill one, the other is scaled, rounded and written.
    alignas(64) int32_t memory[2][BLOCK * BLOCK];
    int32_t *sums = memory[0], *ready = nullptr;
    int64_t ready_m = 0, ready_n = 0, ready_end = 0;
    const auto write = [&](int64_t r) {
      const int64_t m = ready_m + r;
      if (m >= ready_end) return;
      const int32_t* row = ready + r * BLOCK;
      typename Finish::Out* to = y + m * N + ready_n;
      if (ready_n + BLOCK <= N) return finish.block(row, m, ready_n, to);
      for (int64_t n = ready_n; n < N; n += 16, row += 16, to += 16)
        finish.some(row, m, n, first(N - n), to);
    };
    if constexpr (AMX) {
      const TileConfig config;
      _tile_loadconfig(&config);
    }
    for (int64_t task = begin; task < end; ++task) {
      const int64_t c = task / panels, p = task % panels;
      const int64_t i0 = c * chunk, i1 = std::min(blocks, i0 + chunk);
      const int8_t* panel = right + p * BLOCK * deep;
      const int8_t* ahead = right + (p + 1) % panels * BLOCK * deep;
      const int64_t lines = (BLOCK + i1 - i0 - 1) / (i1 - i0);
      [[maybe_unused]] __m512i excess[2];
      if constexpr (!AMX) panel_excess(panel, deep, excess);
      for (int64_t i = i0; i < i1; ++i) {
        const int8_t* rows = left + i * at.block;
        if constexpr (AMX) {
          int64_t r = 0;
          const typename Finish::Out* next = y + i * BLOCK * N + p * BLOCK;
          block_amx<UNIT>(rows, at, panel, deep, sums, [&] {
            for (int64_t l = 0; l < lines; ++l, ahead += 64) _mm_prefetch(ahead, _MM_HINT_T1);
            for (const int64_t to = std::min(BLOCK, r + (BLOCK + steps - 1) / steps); r < to; ++r) {
              write(r);
              _mm_prefetch(next + r * N, _MM_HINT_ET0);
            }
          });
        } else {
          block_vnni(rows, deep, panel, deep, excess, sums);
          for (int64_t r = 0; r < BLOCK; ++r) write(r);
        }
        ready = sums, ready_m = i * BLOCK, ready_n = p * BLOCK, ready_end = M;
        sums = sums == memory[0] ? memory[1] : memory[0];
      }
    }
    for (int64_t r = 0; r < BLOCK; ++r) write(r);
    if constexpr (AMX) _tile_release();
  });
}

template <typename Finish>
void multiply(bool amx, const Tensor& a, const Tensor& panels, int64_t N, Tensor& y,
              const Finish& finish) {
  const int64_t M = a.size(0), deep = round_up(a.size(1), DEPTH);
  const Tensor rows = M % BLOCK || a.size(1) != deep ? pad(a, deep) : a;
  const auto run = amx ? multiply<Unit::AMX_INT8, Finish> : multiply<Unit::VNNI, Finish>;
  run(rows.const_data_ptr<int8_t>(), Layout::plain(deep), panels.const_data_ptr<int8_t>(), M, N,
      deep, y.mutable_data_ptr<typename Finish::Out>(), finish);
}

}  // namespace

#include "cpu_ops.h"

namespace {

// Columns of x [M, N] bfloat16 as panels whose inner dimension is M: for the right operand as they
// come, two rows of x to a word; for the left one transposed, so that a tile's row is a column of x.
Tensor pack_columns(const Tensor& x, bool left) {
  const int64_t M = x.size(0), N = x.size(1), deep = 2 * round_up(M, BLOCK);
  const auto* from = reinterpret_cast<const uint16_t*>(x.const_data_ptr<at::BFloat16>());
  const int64_t number = (N + BLOCK - 1) / BLOCK;
  Tensor panels = at::empty({number, BLOCK * deep}, x.options().dtype(at::kChar));
  fill_panels(panels, COLUMN_PANELS, [&](int64_t p, int64_t count, int8_t* to) {
    for (int64_t m = 0; m < M; m += 32)
      for (int64_t c = 0; c < 2 * count; ++c) {
        const int64_t n = p * BLOCK + 16 * c;
        const __mmask16 in = N > n ? first(N - n) : __mmask16(0);
        const auto row = [&](int64_t i) {
          return m + i < M ? _mm512_cvtepu16_epi32(
                                 _mm256_maskz_loadu_epi16(in, from + (m + i) * N + n))
                           : _mm512_setzero_si512();
        };
        __m512i words[16];
        for (int64_t i = 0; i < 16; ++i)
          words[i] = _mm512_or_si512(row(2 * i), _mm512_slli_epi32(row(2 * i + 1), 16));
        if (left) transpose_16x16(words);
        for (int64_t i = 0; i < 16; ++i)
          _mm512_storeu_si512(to + c * deep * 16 + m * 32 + i * 64, words[i]);
      }
  });
  return panels;
}

// gᵀ·x for g [M, N] and x [M, K] in bfloat16: [N, K], summed in float32 in the order of the rows.
Tensor weight_gradient(const Tensor& g, const Tensor& x, at::ScalarType out_dtype) {
  const int64_t N = g.size(1), K = x.size(1), deep = 2 * round_up(x.size(0), BLOCK);
  Tensor y = at::empty({N, K}, x.options().dtype(out_dtype));
  if (!y.numel()) return y;
  const Tensor left = pack_columns(g, true), right = pack_columns(x, false);
  by_type(out_dtype, [&](auto t) {
    using T = decltype(t);
    multiply<Unit::AMX_BF16>(left.const_data_ptr<int8_t>(), Layout::panels(deep),
                             right.const_data_ptr<int8_t>(), N, K, deep, y.mutable_data_ptr<T>(),
                             Floats<T>{});
  });
  return y;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(LABKIT_LIBRARY, m) {
  m.def("weight_gradient(Tensor g, Tensor x, ScalarType out_dtype) -> Tensor");
}

TORCH_LIBRARY_IMPL(LABKIT_LIBRARY, CPU, m) { m.impl("weight_gradient", weight_gradient); }
