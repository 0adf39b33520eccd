// Softmax attention on Hopper's tensor cores, for heads of 64 values whose keys and values fit shared memory.

#define HEAD 64

// A matrix of rows of 128 bytes in shared memory, whose 16-byte packs are swizzled within each 8 rows.
__device__ __forceinline__ u64 matrix(u32 place) {
    const u64 eight_rows = 1024 >> 4, swizzle_128 = 1;
    return (place & 0x3ffff) >> 4 | (u64)1 << 16 | eight_rows << 32 | swizzle_128 << 62;
}

#define ACC8(d) "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])

// acc (64, 64) = or += a (64, 16) · b (16, 64), over a warpgroup; ROWS says that b's rows, not its columns, lie in
// memory one after another.
template <int ROWS> __device__ __forceinline__ void product(float (&acc)[32], const u32 (&a)[4], u64 b, int add) {
    float *d0 = acc, *d1 = acc + 8, *d2 = acc + 16, *d3 = acc + 24;
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %37, 0;"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,"
                 "%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, p, 1, 1, %38; }"
                 : ACC8(d0), ACC8(d1), ACC8(d2), ACC8(d3)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(ROWS));
}

// As above, of 16 columns.
template <int ROWS> __device__ __forceinline__ void product(float (&acc)[8], const u32 (&a)[4], u64 b, int add) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %13, 0;"
                 "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7}, {%8,%9,%10,%11}, %12, p, 1, "
                 "1, %14; }"
                 : ACC8(acc)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(ROWS));
}

// Keeps what computes with acc on its side of the products.
template <int N> __device__ __forceinline__ void hold(float (&acc)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(acc[i])::"memory");
}

template <int N> __device__ __forceinline__ void begin_products(float (&acc)[N]) {
    hold(acc);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

template <int N> __device__ __forceinline__ void end_products(float (&acc)[N]) {
    asm volatile("wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;" ::: "memory");
    hold(acc);
}

// What a thread has of 64 queries: two rows, of which four threads have the values.
struct Queries {
    u32 q[HEAD / 16][4];
    float mixed[HEAD / 2], most[2], sums[2];
};

// KEYS keys from `first` of T, of which `keys` and `values` are the first.
template <int KEYS> __device__ __forceinline__ void attend(Queries &x, u32 keys, u32 values, int first, int t, float scale) {
    float scores[KEYS / 2];
    begin_products(scores);
#pragma unroll
    for (int s = 0; s < HEAD / 16; s++) product<0>(scores, x.q[s], matrix(keys + first * 128 + s * 32), s > 0);
    end_products(scores);
    const int pairs = threadIdx.x % 4 * 2;
    if (first + KEYS > t)
#pragma unroll
        for (int i = 0; i < KEYS / 2; i++)
            if (first + i / 4 * 8 + pairs + i % 2 >= t) scores[i] = -INF;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float now = x.most[r];
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) now = fmaxf(now, fmaxf(scores[j * 4 + r * 2], scores[j * 4 + r * 2 + 1]));
        now = fmaxf(now, __shfl_xor_sync(~0u, now, 1));
        now = fmaxf(now, __shfl_xor_sync(~0u, now, 2));
        float shrink = two_to((x.most[r] - now) * scale), shift = now * scale;
        x.most[r] = now;
        x.sums[r] *= shrink;
#pragma unroll
        for (int j = 0; j < HEAD / 8; j++) x.mixed[j * 4 + r * 2] *= shrink, x.mixed[j * 4 + r * 2 + 1] *= shrink;
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int i = j * 4 + r * 2; i < j * 4 + r * 2 + 2; i++) x.sums[r] += scores[i] = two_to(scores[i] * scale - shift);
    }
    u32 weights[KEYS / 16][4];
#pragma unroll
    for (int i = 0; i < KEYS / 4; i++) weights[i / 4][i % 4] = pair(scores[i * 2], scores[i * 2 + 1]);
#pragma unroll
    for (int i = 0; i < KEYS / 4; i++) asm volatile("" : "+r"(weights[i / 4][i % 4])::"memory");
    begin_products(x.mixed);
#pragma unroll
    for (int j = 0; j < KEYS / 16; j++) product<1>(x.mixed, weights[j], matrix(values + (first + j * 16) * 128), 1);
    end_products(x.mixed);
}

// qkv (B, T, 3W) → out (B, Q, W), of the first Q queries, with running maxima and sums (Dao et al., 2022). A block is a
// warpgroup, which has the keys and values of a head and goes through its queries. Grid: heads, B. Shared memory: 256
// bytes for each of T keys, rounded up to 16, and 1024.
extern "C" __global__ void __launch_bounds__(128) attention_hopper(const bf16 *qkv, bf16 *out, int t, int queries, int heads,
                                                                   float scale) {
    extern __shared__ char room[];
    const int width = heads * HEAD, stride = 3 * width, rows = (t + 15) / 16 * 16;
    const int lane = threadIdx.x % 32, pairs = lane % 4 * 2;
    const u32 keys = ((u32)__cvta_generic_to_shared(room) + 1023) / 1024 * 1024, values = keys + rows * 128;
    scale *= LOG2E;
    qkv += (size_t)blockIdx.y * t * stride + blockIdx.x * HEAD;
    out += (size_t)blockIdx.y * queries * width + blockIdx.x * HEAD;
    for (int i = threadIdx.x; i < rows * 8; i += 128) {
        int row = i / 8, column = i % 8;
        const bf16 *from = qkv + (size_t)min(row, t - 1) * stride + width + column * 8;
        u32 to = row * 128 + (column ^ row % 8) * 16, bytes = row < t ? 16 : 0;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(keys + to), "l"(from), "r"(bytes));
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(values + to), "l"(from + width), "r"(bytes));
    }
    asm volatile("cp.async.commit_group; cp.async.wait_group 0;");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();

    for (int base = threadIdx.x / 32 * 16; base - threadIdx.x / 32 * 16 < queries; base += 64) {
        Queries x;
#pragma unroll
        for (int s = 0; s < HEAD / 16; s++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int row = min(base + lane / 4 + i % 2 * 8, queries - 1), column = s * 16 + i / 2 * 8 + pairs;
                x.q[s][i] = *(const u32 *)(qkv + (size_t)row * stride + column);
            }
#pragma unroll
        for (int i = 0; i < HEAD / 2; i++) x.mixed[i] = 0;
        for (int r = 0; r < 2; r++) x.most[r] = -INF, x.sums[r] = 0;
        int first = 0;
        for (; t - first > 48; first += 64) attend<64>(x, keys, values, first, t, scale);
        for (; first < t; first += 16) attend<16>(x, keys, values, first, t, scale);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float sum = x.sums[r] + __shfl_xor_sync(~0u, x.sums[r], 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            int row = base + lane / 4 + 8 * r;
            if (row < queries)
#pragma unroll
                for (int j = 0; j < HEAD / 8; j++)
                    *(u32 *)(out + (size_t)row * width + j * 8 + pairs) =
                        pair(x.mixed[j * 4 + 2 * r] / sum, x.mixed[j * 4 + 2 * r + 1] / sum);
        }
    }
}
