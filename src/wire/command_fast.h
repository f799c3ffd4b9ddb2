/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A gift exactly as gf_command_encode spells it, which is how nearly all come: read in one pass without a scanner. True only for
 * records that gf_command_decode would accept with the same values; false says nothing about the record: the strict decoder
 * judges it. Private to src/wire. */
#include "gf/command.h"

GF_NODISCARD bool gf_command_decode_fast(const char *value, size_t len, struct gf_command *command_r);
