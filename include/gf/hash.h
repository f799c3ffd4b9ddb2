/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Non-cryptographic hashes that are contracts with others. */
#include "gf/base.h"

/* Kafka's murmur2 (org.apache.kafka.common.utils.Utils.murmur2). */
uint32_t gf_murmur2(const void *bytes, size_t len);
/* The Java client's partition for a keyed record: (murmur2(key) & 0x7fffffff) % partitions. */
int32_t gf_kafka_partition(const void *key, size_t len, int32_t partitions);
int32_t gf_kafka_partition_for_user(int64_t user_id, int32_t partitions); /* key = decimal text of the id */
/* 64-bit mix for in-memory hash tables. */
uint64_t gf_hash_u64(uint64_t value);
