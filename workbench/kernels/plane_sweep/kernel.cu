// Cost volume: one thread for each pixel and depth, neighbouring threads on neighbouring pixels, channels in a loop.
#include "common.cuh"

extern "C" __global__ void sweep(const float* target, const float* source, const float* homography, const float* shift,
                                 const float* depths, float* cost, unsigned char* valid, int channels, int height, int width,
                                 int planes, int border, float near, float slack) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y, i = blockIdx.z;
    if (x < border || x >= width - border || y < border || y >= height - border) return;
    float depth = depths[i], q[3];
    for (int j = 0; j < 3; ++j)
        q[j] = (homography[3 * j] * x + homography[3 * j + 1] * y + homography[3 * j + 2]) * depth + shift[j];
    if (!(q[2] > near)) return;
    float u = q[0] / q[2], v = q[1] / q[2], low = border - slack;
    if (!(u >= low && u <= width - 1 - low && v >= low && v <= height - 1 - low)) return;
    u = fminf(fmaxf(u, 0.0f), float(width - 1));
    v = fminf(fmaxf(v, 0.0f), float(height - 1));
    int left = int(u), top = int(v), right = min(left + 1, width - 1), bottom = min(top + 1, height - 1);
    float a = u - left, b = v - top, total = 0.0f;
    size_t plane = size_t(height) * width, here = size_t(y) * width + x;
    size_t p00 = size_t(top) * width + left, p01 = size_t(top) * width + right;
    size_t p10 = size_t(bottom) * width + left, p11 = size_t(bottom) * width + right;
    for (int c = 0; c < channels; ++c) {
        const float* image = source + c * plane;
        float upper = image[p00] * (1 - a) + image[p01] * a, lower = image[p10] * (1 - a) + image[p11] * a;
        total += fabsf(target[c * plane + here] - (upper * (1 - b) + lower * b));
    }
    cost[i * plane + here] = total / channels;
    valid[i * plane + here] = 1;
}

// Softmax over depths of a pixel's cost scaled to [0, 1], its arg-min and its entropy: one thread for each pixel.
extern "C" __global__ void law(const float* cost, const unsigned char* valid, float* probability, int* best, float* entropy,
                               int pixels, int planes, float temperature) {
    int p = blockIdx.x * blockDim.x + threadIdx.x;
    if (p >= pixels) return;
    float low = 0.0f, high = 0.0f;
    int first = -1;
    bool any = false;
    for (int i = 0; i < planes; ++i) {
        size_t at = size_t(i) * pixels + p;
        if (!valid[at]) continue;
        if (!any || cost[at] < low) low = cost[at], first = i;
        high = any ? fmaxf(high, cost[at]) : cost[at];
        any = true;
    }
    float span = high > low ? high - low : 1.0f, total = 0.0f, moment = 0.0f;
    for (int i = 0; i < planes; ++i) {
        size_t at = size_t(i) * pixels + p;
        float scaled = valid[at] ? (cost[at] - low) / span : 1.0f, weight = expf(-scaled / temperature);
        probability[at] = weight;
        total += weight;
        moment += weight * scaled;
    }
    for (int i = 0; i < planes; ++i) probability[size_t(i) * pixels + p] /= total;
    best[p] = first;
    entropy[p] = logf(total) + moment / total / temperature;
}
