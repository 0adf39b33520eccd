// What a transformer block does between its products, compiled by NVRTC for a head dimension HEAD, a multiple of 8,
// and rows of at most WIDEST values.
// B sequences of T positions, N = B·T, width W = heads·HEAD. Sums are float32.

#define PADDED ((HEAD + 15) / 16 * 16) // what products of 16 see of a head
#define KEYS 32                        // keys in shared memory at a time
#define TILES (HEAD > 80 ? 1 : 2)      // of 16 queries, of a warp

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((u32)x << 16); }
__device__ __forceinline__ void put(float &to, float x) { to = x; }
__device__ __forceinline__ void put(bf16 &to, float x) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to) : "f"(x)); }

__device__ __forceinline__ float4 four(const float *from) { return *(const float4 *)from; }
__device__ __forceinline__ float4 four(const bf16 *from) {
    uint2 x = *(const uint2 *)from;
    return make_float4(__uint_as_float(x.x << 16), __uint_as_float(x.x & 0xffff0000), __uint_as_float(x.y << 16),
                       __uint_as_float(x.y & 0xffff0000));
}

__device__ __forceinline__ void put(float *to, float4 x) { *(float4 *)to = x; }
__device__ __forceinline__ void put(bf16 *to, float4 x) { *(uint2 *)to = make_uint2(pair(x.x, x.y), pair(x.z, x.w)); }

// A residual beside products in bfloat16: in float16, divided by UNIT, so that none is too large for it.
struct f16 {
    unsigned short bits;
};

__device__ __forceinline__ float2 two(u32 both) {
    float2 x;
    asm("{ .reg .f16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high; }"
        : "=f"(x.x), "=f"(x.y)
        : "r"(both));
    return make_float2(x.x * UNIT, x.y * UNIT);
}
__device__ __forceinline__ u32 both(float low, float high) {
    u32 both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high * (1 / UNIT)), "f"(low * (1 / UNIT)));
    return both;
}
__device__ __forceinline__ float4 four(const f16 *from) {
    uint2 x = *(const uint2 *)from;
    float2 first = two(x.x), second = two(x.y);
    return make_float4(first.x, first.y, second.x, second.y);
}
__device__ __forceinline__ void put(f16 *to, float4 x) { *(uint2 *)to = make_uint2(both(x.x, x.y), both(x.z, x.w)); }

// 16 bytes of a row.
template <typename T> struct alignas(16) Pack { T x[16 / sizeof(T)]; };

__device__ __forceinline__ float warp_sum(float x) {
    for (int other = 16; other > 0; other /= 2) x += __shfl_xor_sync(~0u, x, other);
    return x;
}

// Mean and 1 / deviation of a row of `packs` times four values, by a warp.
__device__ __forceinline__ float2 moments(const float4 *row, int packs, float eps) {
    float sum = 0, squares = 0;
    for (int p = threadIdx.x; p < packs; p += 32) sum += row[p].x + row[p].y + row[p].z + row[p].w;
    float mean = warp_sum(sum) / (packs * 4);
    for (int p = threadIdx.x; p < packs; p += 32) {
        float4 v = row[p];
        v.x -= mean, v.y -= mean, v.z -= mean, v.w -= mean;
        squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    }
    return make_float2(mean, rsqrtf(warp_sum(squares) / (packs * 4) + eps));
}

// x (N, W) → y (N, W), a warp per row, which it keeps. Where there is `more` (N, W), it is added to x first, and the sum
// goes to `sum`.
template <typename X, typename T, typename S>
__device__ void layer_norm(const X *x, const T *more, const float *weight, const float *bias, S *sum, T *y, int rows,
                           int width, float eps) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    size_t start = (size_t)row * width;
    float4 v[WIDEST / 128];
    float total = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < WIDEST / 128; i++) {
        int at = (i * 32 + threadIdx.x) * 4;
        if (at >= width) continue;
        v[i] = four(x + start + at);
        if (more) {
            float4 m = four(more + start + at);
            v[i].x += m.x, v[i].y += m.y, v[i].z += m.z, v[i].w += m.w;
        }
        total += v[i].x + v[i].y + v[i].z + v[i].w;
    }
    float mean = warp_sum(total) / width;
#pragma unroll
    for (int i = 0; i < WIDEST / 128; i++) {
        int at = (i * 32 + threadIdx.x) * 4;
        if (at >= width) continue;
        if (more) put(sum + start + at, v[i]);
        v[i].x -= mean, v[i].y -= mean, v[i].z -= mean, v[i].w -= mean;
        squares += v[i].x * v[i].x + v[i].y * v[i].y + v[i].z * v[i].z + v[i].w * v[i].w;
    }
    float by = rsqrtf(warp_sum(squares) / width + eps);
#pragma unroll
    for (int i = 0; i < WIDEST / 128; i++) {
        int at = (i * 32 + threadIdx.x) * 4;
        if (at >= width) continue;
        float4 scale = four(weight + at), shift = four(bias + at);
        v[i].x = v[i].x * by * scale.x + shift.x, v[i].y = v[i].y * by * scale.y + shift.y;
        v[i].z = v[i].z * by * scale.z + shift.z, v[i].w = v[i].w * by * scale.w + shift.w;
        put(y + start + at, v[i]);
    }
}

extern "C" __global__ void layer_norm_f32(const float *x, const float *more, const float *weight, const float *bias,
                                          float *sum, float *y, int rows, int width, float eps) {
    layer_norm(x, more, weight, bias, sum, y, rows, width, eps);
}
extern "C" __global__ void layer_norm_bf16(const float *x, const bf16 *more, const float *weight, const float *bias,
                                           f16 *sum, bf16 *y, int rows, int width, float eps) {
    layer_norm(x, more, weight, bias, sum, y, rows, width, eps);
}
extern "C" __global__ void layer_norm_f16_bf16(const f16 *x, const bf16 *more, const float *weight, const float *bias,
                                               f16 *sum, bf16 *y, int rows, int width, float eps) {
    layer_norm(x, more, weight, bias, sum, y, rows, width, eps);
}

// dx (N, W) of a layer norm's input x from dy, plus `residual`, a warp per row.
extern "C" __global__ void layer_norm_backward_f32(const float *x, const float *weight, const float *dy,
                                                   const float *residual, float *dx, int rows, int width, float eps) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    size_t start = (size_t)row * width;
    float2 m = moments((const float4 *)(x + start), width / 4, eps);
    float sum = 0, along = 0;
    for (int i = threadIdx.x; i < width; i += 32) {
        float g = dy[start + i] * weight[i];
        sum += g;
        along += g * (x[start + i] - m.x) * m.y;
    }
    sum = warp_sum(sum) / width;
    along = warp_sum(along) / width;
    for (int i = threadIdx.x; i < width; i += 32) {
        float normal = (x[start + i] - m.x) * m.y;
        dx[start + i] = residual[start + i] + m.y * (dy[start + i] * weight[i] - sum - normal * along);
    }
}

// Pixels (B, S, S, 3), each byte as the normalisation (3, 256) has it → patches (B·side·side, 3·p·p), a thread per row of a
// patch.
template <typename T>
__device__ void patches(const unsigned char *pixels, const float *normalisation, T *out, int rows, int image, int side,
                        int p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x; // over (B, side, side, 3, p)
    if (i >= rows) return;
    int row = i % p, channel = i / p % 3, x = i / p / 3 % side, y = i / p / 3 / side % side, b = i / p / 3 / side / side;
    const unsigned char *from = pixels + (((size_t)b * image + y * p + row) * image + x * p) * 3 + channel;
    for (int j = 0; j < p; j++) put(out[(size_t)i * p + j], normalisation[channel * 256 + from[3 * j]]);
}
extern "C" __global__ void patches_f32(const unsigned char *pixels, const float *normalisation, float *out, int rows,
                                       int image, int side, int p) {
    patches(pixels, normalisation, out, rows, image, side, p);
}
extern "C" __global__ void patches_bf16(const unsigned char *pixels, const float *normalisation, bf16 *out, int rows,
                                        int image, int side, int p) {
    patches(pixels, normalisation, out, rows, image, side, p);
}

// Patches (B, T - first, W) after `first` times the class token (W), with positions (T, W) → (B, T, W), float32.
template <typename T>
__device__ void embed(const T *patches, const float *token, const float *positions, float *out, int rows, int t,
                      int first, int width) {
    int row = blockIdx.x * blockDim.y + threadIdx.y, at = row % t;
    if (row >= rows) return;
    const T *patch = patches + ((size_t)(row / t) * (t - first) + at - first) * width;
    for (int i = threadIdx.x; i < width; i += 32)
        out[(size_t)row * width + i] = positions[at * width + i] + (at < first ? token[i] : to_float(patch[i]));
}
extern "C" __global__ void embed_f32(const float *patches, const float *token, const float *positions, float *out,
                                     int rows, int t, int first, int width) {
    embed(patches, token, positions, out, rows, t, first, width);
}
extern "C" __global__ void embed_bf16(const bf16 *patches, const float *token, const float *positions, float *out,
                                      int rows, int t, int first, int width) {
    embed(patches, token, positions, out, rows, t, first, width);
}

// The activations by their numbers: quick_gelu, gelu, gelu_pytorch_tanh.
__device__ __forceinline__ float sigmoid(float x) { return 1 / (1 + expf(-x)); }
__device__ __forceinline__ float activate(float x, int kind) {
    if (kind == 0) return x * sigmoid(1.702f * x);
    if (kind == 1) return 0.5f * x * (1 + erff(x * 0.70710678f));
    return x * sigmoid(1.5957691216f * (x + 0.044715f * x * x * x));
}
__device__ __forceinline__ float slope(float x, int kind) {
    if (kind == 0) {
        float s = sigmoid(1.702f * x);
        return s * (1 + 1.702f * x * (1 - s));
    }
    if (kind == 1) return 0.5f * (1 + erff(x * 0.70710678f)) + x * 0.3989422804f * expf(-0.5f * x * x);
    float s = sigmoid(1.5957691216f * (x + 0.044715f * x * x * x));
    return s + x * 1.5957691216f * (1 + 3 * 0.044715f * x * x) * s * (1 - s);
}

template <typename T> __device__ void activation(const T *x, T *y, size_t packs, int kind) {
    for (size_t p = blockIdx.x * (size_t)blockDim.x + threadIdx.x; p < packs; p += (size_t)gridDim.x * blockDim.x) {
        Pack<T> pack = ((const Pack<T> *)x)[p];
        for (int i = 0; i < 16 / sizeof(T); i++) put(pack.x[i], activate(to_float(pack.x[i]), kind));
        ((Pack<T> *)y)[p] = pack;
    }
}

// x → y elementwise, as 16-byte packs.
extern "C" __global__ void activation_f32(const float *x, float *y, size_t packs, int kind) {
    activation(x, y, packs, kind);
}
extern "C" __global__ void activation_bf16(const bf16 *x, bf16 *y, size_t packs, int kind) {
    activation(x, y, packs, kind);
}

// dy times the activation's derivative at x, elementwise.
extern "C" __global__ void activation_backward_f32(const float *x, const float *dy, float *dx, size_t n, int kind) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        dx[i] = dy[i] * slope(x[i], kind);
}

// acc (16, 8) += a (16, 16) · b (16, 8), over a warp.
__device__ __forceinline__ void product(float acc[4], const u32 a[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Rows first .. first + KEYS of keys and values into shared memory, zeros beyond T.
__device__ __forceinline__ void fetch(bf16 (*keys)[PADDED + 8], bf16 (*values)[PADDED + 8], const bf16 *k, int first,
                                      int t, int stride, int width) {
    for (int i = threadIdx.y * 32 + threadIdx.x; i < KEYS * (HEAD / 8); i += 32 * blockDim.y) {
        int row = i / (HEAD / 8), column = i % (HEAD / 8) * 8;
        bool there = first + row < t;
        const bf16 *from = k + (size_t)(there ? first + row : 0) * stride + column;
        u32 bytes = there ? 16 : 0;
        u32 to = (u32)__cvta_generic_to_shared(&keys[row][column]);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes));
        to = (u32)__cvta_generic_to_shared(&values[row][column]);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from + width), "r"(bytes));
    }
    asm volatile("cp.async.commit_group;");
}

// Softmax attention with running maxima and sums (Dao et al., 2022): qkv (B, T, 3W) → out (B, Q, W), of the first Q
// queries. A block has some queries of a head, a warp TILES times 16 of them. Grid: blocks of queries, heads, B.
extern "C" __global__ void attention_bf16(const bf16 *qkv, bf16 *out, int t, int queries, int heads, float scale, int causal) {
    __shared__ alignas(16) bf16 keys[2][KEYS][PADDED + 8], values[2][KEYS][PADDED + 8];
    const int width = heads * HEAD, stride = 3 * width, lane = threadIdx.x, pairs = lane % 4 * 2;
    const int base = (blockIdx.x * blockDim.y + threadIdx.y) * TILES * 16; // of the warp's queries
    scale *= LOG2E;
    qkv += (size_t)blockIdx.z * t * stride + blockIdx.y * HEAD;

    // what pads a head to products of 16 counts for nothing
    for (int i = threadIdx.y * 32 + lane; PADDED > HEAD && i < 2 * KEYS * 8; i += 32 * blockDim.y) {
        int row = i / 8, column = HEAD + i % 8;
        keys[row / KEYS][row % KEYS][column] = values[row / KEYS][row % KEYS][column] = 0;
    }
    u32 q[TILES][PADDED / 16][4];
    float mixed[TILES][PADDED / 8][4], most[TILES][2], sums[TILES][2];
#pragma unroll
    for (int m = 0; m < TILES; m++) {
#pragma unroll
        for (int s = 0; s < PADDED / 16; s++)
            for (int i = 0; i < 4; i++) {
                int row = base + m * 16 + lane / 4 + i % 2 * 8, column = s * 16 + i / 2 * 8 + pairs;
                q[m][s][i] = row < queries && column < HEAD ? *(const u32 *)(qkv + (size_t)row * stride + column) : 0;
            }
#pragma unroll
        for (int j = 0; j < PADDED / 8; j++)
            for (int i = 0; i < 4; i++) mixed[m][j][i] = 0;
        for (int r = 0; r < 2; r++) most[m][r] = -INF, sums[m][r] = 0;
    }

    const int rounds = (t + KEYS - 1) / KEYS;
    fetch(keys[0], values[0], qkv + width, 0, t, stride, width);
    for (int round = 0; round < rounds; round++) {
        const int first = round * KEYS, at = round % 2;
        const bool whole = first + KEYS <= t && !causal;
        if (round + 1 < rounds) {
            fetch(keys[1 - at], values[1 - at], qkv + width, first + KEYS, t, stride, width);
            asm volatile("cp.async.wait_group 1;");
        } else {
            asm volatile("cp.async.wait_group 0;");
        }
        __syncthreads();
        if (base < queries) {
            float scores[TILES][KEYS / 8][4];
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++) {
#pragma unroll
                for (int m = 0; m < TILES; m++)
                    for (int i = 0; i < 4; i++) scores[m][j][i] = 0;
                if (first + j * 8 < t)
#pragma unroll
                    for (int s = 0; s < PADDED / 16; s++) {
                        const bf16 *key = &keys[at][j * 8 + lane / 4][s * 16 + pairs];
                        u32 low = *(const u32 *)key, high = *(const u32 *)(key + 8);
#pragma unroll
                        for (int m = 0; m < TILES; m++) product(scores[m][j], q[m][s], low, high);
                    }
                if (!whole)
#pragma unroll
                    for (int m = 0; m < TILES; m++)
                        for (int i = 0; i < 4; i++) {
                            int key = first + j * 8 + pairs + i % 2, query = base + m * 16 + lane / 4 + i / 2 * 8;
                            if (key >= t || (causal && key > query)) scores[m][j][i] = -INF;
                        }
            }
#pragma unroll
            for (int m = 0; m < TILES; m++)
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    float now = most[m][r];
#pragma unroll
                    for (int j = 0; j < KEYS / 8; j++)
                        now = fmaxf(now, fmaxf(scores[m][j][2 * r], scores[m][j][2 * r + 1]));
                    now = fmaxf(now, __shfl_xor_sync(~0u, now, 1));
                    now = fmaxf(now, __shfl_xor_sync(~0u, now, 2));
                    float shrink = two_to((most[m][r] - now) * scale), shift = now * scale;
                    most[m][r] = now;
                    sums[m][r] *= shrink;
#pragma unroll
                    for (int j = 0; j < PADDED / 8; j++)
                        mixed[m][j][2 * r] *= shrink, mixed[m][j][2 * r + 1] *= shrink;
#pragma unroll
                    for (int j = 0; j < KEYS / 8; j++)
                        for (int i = 2 * r; i < 2 * r + 2; i++)
                            sums[m][r] += scores[m][j][i] = two_to(scores[m][j][i] * scale - shift);
                }
#pragma unroll
            for (int j = 0; j < KEYS / 16; j++) {
                if (first + j * 16 >= t) break;
                u32 p[TILES][4];
#pragma unroll
                for (int m = 0; m < TILES; m++)
                    for (int i = 0; i < 4; i++)
                        p[m][i] = pair(scores[m][2 * j + i / 2][i % 2 * 2], scores[m][2 * j + i / 2][i % 2 * 2 + 1]);
#pragma unroll
                for (int n = 0; n < PADDED / 16; n++) {
                    u32 v[4], from = (u32)__cvta_generic_to_shared(&values[at][j * 16 + lane % 16][n * 16 + lane / 16 * 8]);
                    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                                 : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
                                 : "r"(from));
#pragma unroll
                    for (int m = 0; m < TILES; m++) {
                        product(mixed[m][2 * n], p[m], v[0], v[1]);
                        product(mixed[m][2 * n + 1], p[m], v[2], v[3]);
                    }
                }
            }
        }
        __syncthreads();
    }

#pragma unroll
    for (int m = 0; m < TILES; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float sum = sums[m][r] + __shfl_xor_sync(~0u, sums[m][r], 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            int row = base + m * 16 + lane / 4 + 8 * r;
            if (row < queries)
#pragma unroll
                for (int j = 0; j < HEAD / 8; j++)
                    *(u32 *)(out + ((size_t)blockIdx.z * queries + row) * width + blockIdx.y * HEAD + j * 8 + pairs) =
                        pair(mixed[m][j][2 * r] / sum, mixed[m][j][2 * r + 1] / sum);
        }
}

// As attention_bf16, a thread per query.
extern "C" __global__ void attention_f32(const float *qkv, float *out, int t, int queries, int heads, float scale, int causal) {
    __shared__ alignas(16) float keys[KEYS][HEAD], values[KEYS][HEAD];
    const int width = heads * HEAD, stride = 3 * width, query = blockIdx.x * blockDim.x + threadIdx.x;
    qkv += (size_t)blockIdx.z * t * stride + blockIdx.y * HEAD;
    float q[HEAD], mixed[HEAD] = {}, most = -INF, sum = 0;
#pragma unroll
    for (int i = 0; i < HEAD; i++) q[i] = query < queries ? qkv[(size_t)query * stride + i] * scale : 0;
    for (int first = 0; first < t; first += KEYS) {
        __syncthreads();
        for (int i = threadIdx.x; i < KEYS * (HEAD / 4); i += blockDim.x) {
            int row = i / (HEAD / 4), column = i % (HEAD / 4) * 4;
            if (first + row < t) {
                const float *from = qkv + (size_t)(first + row) * stride + column;
                *(float4 *)&keys[row][column] = *(const float4 *)(from + width);
                *(float4 *)&values[row][column] = *(const float4 *)(from + 2 * width);
            }
        }
        __syncthreads();
        int seen = min(KEYS, (causal ? min(t, query + 1) : t) - first);
        if (query >= queries) continue;
        for (int j = 0; j < seen; j += 8) {
            float scores[8], now = most;
#pragma unroll
            for (int s = 0; s < 8; s++) {
                float score = 0;
#pragma unroll
                for (int i = 0; i < HEAD; i += 4) {
                    float4 key = *(const float4 *)&keys[min(j + s, KEYS - 1)][i];
                    score += q[i] * key.x + q[i + 1] * key.y + q[i + 2] * key.z + q[i + 3] * key.w;
                }
                scores[s] = j + s < seen ? score : -INF;
                now = fmaxf(now, scores[s]);
            }
            float shrink = expf(most - now);
            most = now;
            sum *= shrink;
#pragma unroll
            for (int i = 0; i < HEAD; i++) mixed[i] *= shrink;
#pragma unroll
            for (int s = 0; s < 8; s++) {
                if (j + s >= seen) break;
                float p = expf(scores[s] - now);
                sum += p;
#pragma unroll
                for (int i = 0; i < HEAD; i += 4) {
                    float4 value = *(const float4 *)&values[j + s][i];
                    mixed[i] += p * value.x, mixed[i + 1] += p * value.y;
                    mixed[i + 2] += p * value.z, mixed[i + 3] += p * value.w;
                }
            }
        }
    }
    if (query >= queries) return;
    out += ((size_t)blockIdx.z * queries + query) * width + blockIdx.y * HEAD;
#pragma unroll
    for (int i = 0; i < HEAD; i++) out[i] = mixed[i] / sum;
}

// dqkv (B, T, 3W) from qkv and dout (B, T, W), the weights computed again. Grid: heads, B. Shared memory: 4 T (HEAD + 1)
// + 2 T² floats.
extern "C" __global__ void attention_backward_f32(const float *qkv, const float *dout, float *dqkv, int t, int heads,
                                                  float scale, int causal) {
    extern __shared__ float room[];
    const int row = HEAD + 1, width = heads * HEAD, stride = 3 * width;
    float *q = room, *k = q + t * row, *v = k + t * row, *dy = v + t * row, *p = dy + t * row, *ds = p + t * t;
    qkv += (size_t)blockIdx.y * t * stride + blockIdx.x * HEAD;
    dqkv += (size_t)blockIdx.y * t * stride + blockIdx.x * HEAD;
    dout += (size_t)blockIdx.y * t * width + blockIdx.x * HEAD;
    for (int i = threadIdx.x; i < t * HEAD; i += blockDim.x) {
        int at = i / HEAD, column = i % HEAD;
        const float *from = qkv + (size_t)at * stride + column;
        q[at * row + column] = from[0] * scale;
        k[at * row + column] = from[width];
        v[at * row + column] = from[2 * width];
        dy[at * row + column] = dout[(size_t)at * width + column];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < t * t; i += blockDim.x) {
        const float *a = q + i / t * row, *b = k + i % t * row, *c = dy + i / t * row, *d = v + i % t * row;
        float score = 0, dp = 0;
        for (int s = 0; s < HEAD; s++) score += a[s] * b[s], dp += c[s] * d[s];
        p[i] = causal && i % t > i / t ? -INF : score;
        ds[i] = dp;
    }
    __syncthreads();
    for (int i = threadIdx.x / 32; i < t; i += blockDim.x / 32) {
        float most = -INF, sum = 0, along = 0;
        for (int j = threadIdx.x % 32; j < t; j += 32) most = fmaxf(most, p[i * t + j]);
        for (int other = 16; other > 0; other /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, other));
        for (int j = threadIdx.x % 32; j < t; j += 32) sum += p[i * t + j] = expf(p[i * t + j] - most);
        sum = warp_sum(sum);
        for (int j = threadIdx.x % 32; j < t; j += 32) along += (p[i * t + j] /= sum) * ds[i * t + j];
        along = warp_sum(along);
        for (int j = threadIdx.x % 32; j < t; j += 32) ds[i * t + j] = p[i * t + j] * (ds[i * t + j] - along);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < t * HEAD; i += blockDim.x) {
        int at = i / HEAD, column = i % HEAD;
        float dq = 0, dk = 0, dv = 0;
        for (int j = 0; j < t; j++) {
            dq += ds[at * t + j] * k[j * row + column];
            dk += ds[j * t + at] * q[j * row + column];
            dv += p[j * t + at] * dy[j * row + column];
        }
        float *to = dqkv + (size_t)at * stride + column;
        to[0] = dq * scale;
        to[width] = dk;
        to[2 * width] = dv;
    }
}
