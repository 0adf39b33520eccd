// A step of Adam (Kingma and Ba, 2015), of C parameters of `size` values each. Grid: blocks of values, C.

extern "C" __global__ void adam(float *parameters, float *first, float *second, const float *gradients, const float *on,
                                const float *rates, const float *corrections, unsigned long long size, float beta1,
                                float beta2, float eps, float decay) {
    if (on[blockIdx.y] == 0) return;
    float rate = rates[blockIdx.y], correction = corrections[blockIdx.y];
    size_t start = blockIdx.y * (size_t)size;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < size; i += (size_t)gridDim.x * blockDim.x) {
        float g = gradients[start + i], m = first[start + i], v = second[start + i];
        first[start + i] = m += (g - m) * (1 - beta1);
        second[start + i] = v += (g * g - v) * (1 - beta2);
        parameters[start + i] = parameters[start + i] * (1 - decay) - rate * m / (sqrtf(v) * correction + eps);
    }
}
