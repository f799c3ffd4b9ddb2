/* SPDX-License-Identifier: Apache-2.0 */
/* murmur2 as Apache Kafka's Java client computes it (seed 0x9747b28c), and a 64-bit mixer. See gf/hash.h. */
#include "gf/hash.h"

#include <stdio.h>

uint32_t gf_murmur2(const void *bytes, size_t len)
{
    const uint8_t *data = bytes;
    const uint32_t m = 0x5bd1e995;
    uint32_t h = UINT32_C(0x9747b28c) ^ (uint32_t)len;
    size_t tail = len & ~(size_t)3;

    for (size_t i = 0; i < tail; i += 4) {
        uint32_t k = (uint32_t)data[i] | (uint32_t)data[i + 1] << 8 | (uint32_t)data[i + 2] << 16 | (uint32_t)data[i + 3] << 24;

        k *= m;
        k ^= k >> 24;
        k *= m;
        h *= m;
        h ^= k;
    }
    if ((len & 3) == 3)
        h ^= (uint32_t)data[tail + 2] << 16;
    if ((len & 3) >= 2)
        h ^= (uint32_t)data[tail + 1] << 8;
    if ((len & 3) >= 1) {
        h ^= data[tail];
        h *= m;
    }
    h ^= h >> 13;
    h *= m;
    h ^= h >> 15;
    return h;
}

int32_t gf_kafka_partition(const void *key, size_t len, int32_t partitions)
{
    GF_ASSERT(partitions > 0);
    return (int32_t)((gf_murmur2(key, len) & UINT32_C(0x7fffffff)) % (uint32_t)partitions);
}

int32_t gf_kafka_partition_for_user(int64_t user_id, int32_t partitions)
{
    char key[24];
    int len = snprintf(key, sizeof(key), "%lld", (long long)user_id);

    GF_ASSERT(len > 0 && (size_t)len < sizeof(key));
    return gf_kafka_partition(key, (size_t)len, partitions);
}

uint64_t gf_hash_u64(uint64_t value) /* splitmix64's finaliser */
{
    value ^= value >> 30;
    value *= UINT64_C(0xbf58476d1ce4e5b9);
    value ^= value >> 27;
    value *= UINT64_C(0x94d049bb133111eb);
    return value ^ value >> 31;
}
