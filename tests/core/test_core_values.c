/* SPDX-License-Identifier: Apache-2.0 */
/* The contract's fixed values: bytes of a trade row under batch.hash, numbers and texts of outcomes, prices by time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "gf/plan.h"

/* Python: struct.pack('>hqq16sbhqqqqhqibiqqqqb16s8sq', 300, 77, 2**53-1, bytes(range(16)), 4, 8, -180, -40, 12, 910, 299, -1,
 * 22, 5, -3, 90, 2, 3, 90, 1, bytes(range(16, 32)), bytes(range(0xa0, 0xa8)), 1714000000000).hex() */
static const char golden[] =
        "012c000000000000004d001fffffffffffff000102030405060708090a0b0c0d0e0f040008ffffffffffffff4cffffffffff"
        "ffffd8000000000000000c000000000000038e012bffffffffffffffff0000001605fffffffd000000000000005a00000000"
        "000000020000000000000003000000000000005a01101112131415161718191a1b1c1d1e1fa0a1a2a3a4a5a6a70000018f12"
        "5c7400";
#define HAS_REF_AT 120

static struct gf_trade row(void)
{
    struct gf_trade trade = {.off = 77, .user_id = GF_ID_MAX, .kind = GF_KIND_GIFT_REFUND, .outcome = GF_OUTCOME_WALLET_FROZEN,
                             .amount = -180, .debt_delta = -40, .seq = 12, .balance_after = 910, .prev_log = 299, .prev_off = -1,
                             .gift_id = 22, .gift_type = 5, .quantity = -3, .price = 90, .receiver_id = 2, .room_id = 3,
                             .host_coins = 90, .has_ref = true, .ts_ms = 1714000000000};

    for (int i = 0; i < 16; i++) {
        trade.request_id.b[i] = (uint8_t)i;
        trade.ref.b[i] = (uint8_t)(16 + i);
    }
    for (int i = 0; i < 8; i++)
        trade.fp[i] = (uint8_t)(0xa0 + i);
    return trade;
}

static void a_row_has_its_documented_bytes(void **s)
{
    struct gf_trade trade = row();
    uint8_t bytes[GF_TRADE_BYTES];
    char hex[2 * GF_TRADE_BYTES + 1] = "";
    size_t len = gf_trade_bytes(300, &trade, bytes);

    (void)s;
    assert_int_equal(len, GF_TRADE_BYTES);
    for (size_t i = 0; i < len; i++) {
        hex[2 * i] = "0123456789abcdef"[bytes[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[bytes[i] & 15];
    }
    assert_string_equal(hex, golden);
}

static void a_null_reference_is_zeros(void **s)
{
    static const uint8_t zeros[17];
    struct gf_trade trade = row();
    uint8_t with[GF_TRADE_BYTES], without[GF_TRADE_BYTES];
    size_t len = gf_trade_bytes(300, &trade, with);

    (void)s;
    trade.has_ref = false;
    assert_int_equal(gf_trade_bytes(300, &trade, without), len);
    assert_memory_equal(without + HAS_REF_AT, zeros, 17);
    assert_memory_equal(without, with, HAS_REF_AT);
    assert_memory_equal(without + HAS_REF_AT + 17, with + HAS_REF_AT + 17, GF_TRADE_BYTES - HAS_REF_AT - 17);
}

static void outcomes_keep_their_numbers_and_texts(void **s)
{
    static const char *const outcomes[] = {"settled", "internal_error", "gift_not_found", "price_mismatch", "quantity_out_of_range", "amount_out_of_range",
                                           "self_gift", "wallet_not_found", "wallet_frozen", "insufficient_balance", "credit_refused"};
    static const char *const dead[] = {"none", "empty_record", "not_json", "unknown_version", "unknown_type", "bad_field", "foreign_key",
                                       "foreign_partition", "bad_request_id", "no_credit", "bad_credit", "id_reused", "sql_refused", "crash_loop", "too_large"};

    (void)s;
    for (size_t i = 0; i < GF_COUNT(outcomes); i++) {
        assert_string_equal(gf_outcome_text((enum gf_outcome)i), outcomes[i]);
        assert_true(strlen(gf_outcome_message((enum gf_outcome)i)) > 0);
    }
    for (size_t i = 0; i < GF_COUNT(dead); i++) {
        assert_string_equal(gf_dead_text((enum gf_dead)i), dead[i]);
        assert_true(strlen(gf_dead_message((enum gf_dead)i)) > 0);
    }
    assert_string_equal(gf_outcome_text((enum gf_outcome)999), "unknown");
    assert_string_equal(gf_dead_text((enum gf_dead)999), "unknown");
}

static void the_price_to_ask_is_the_one_in_force(void **s)
{
    static const struct gf_price prices[] = {{200, INT64_MAX, 80, 5000}, {100, 150, 90, 5000}};
    static const struct gf_gift gifts[] = {{.gift_id = 7}, {.gift_id = 22, .prices = prices, .price_count = 2}, {.gift_id = 30}};
    static const struct gf_catalogue catalogue = {.gifts = gifts, .gift_count = 3};
    static const struct gf_catalogue empty;
    const struct gf_gift *gift = gf_catalogue_find(&catalogue, 22);

    (void)s;
    assert_ptr_equal(gift, &gifts[1]);
    assert_ptr_equal(gf_catalogue_find(&catalogue, 7), &gifts[0]);
    assert_ptr_equal(gf_catalogue_find(&catalogue, 30), &gifts[2]);
    assert_null(gf_catalogue_find(&catalogue, 8));
    assert_null(gf_catalogue_find(&catalogue, 31));
    assert_null(gf_catalogue_find(&catalogue, -1));
    assert_null(gf_catalogue_find(&empty, 7));
    assert_null(gf_gift_price(gift, 99));
    assert_ptr_equal(gf_gift_price(gift, 100), &prices[1]);
    assert_ptr_equal(gf_gift_price(gift, 149), &prices[1]);
    assert_null(gf_gift_price(gift, 150));
    assert_ptr_equal(gf_gift_price(gift, 200), &prices[0]);
    assert_ptr_equal(gf_gift_price(gift, INT64_MAX - 1), &prices[0]);
    assert_null(gf_gift_price(&gifts[0], 100));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_has_its_documented_bytes),
        cmocka_unit_test(a_null_reference_is_zeros),
        cmocka_unit_test(outcomes_keep_their_numbers_and_texts),
        cmocka_unit_test(the_price_to_ask_is_the_one_in_force),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
