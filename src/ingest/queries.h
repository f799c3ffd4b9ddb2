/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Queries that the public and the admin API share, for a user who is named by the caller. Both take the request. */
#include "ingest.h"

void gf_query_request_of(const struct gf_call *call, int64_t user_id, struct gf_slice id);
void gf_query_wallet_of(const struct gf_call *call, int64_t user_id);
