/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Named points at which a test stops a process: between every two steps whose order money depends on. In builds with
 * GF_POINTS (dev, asan, tsan, clang) the environment names what happens where:
 *     GIFTFLOW_POINT="NAME:kill|stop[:N][,...]"     SIGKILL or SIGSTOP to itself at the N-th pass (default the first)
 * In a release build GF_POINT is nothing, and neither names nor texts are in the binary. `giftflow points` lists them.
 * Threads: any. Failures: an unknown name or action ends the process with code 2. */

/* X(name, what has happened when it is passed). The part before the first _ is the role. */
#define GF_POINT_MAP(X)                                                                                      \
    X(settle_assigned, "a partition was assigned, nothing is claimed")                                       \
    X(settle_claim_begun, "BEGIN of the claim")                                                              \
    X(settle_claim_raised, "the epoch is raised, not committed")                                             \
    X(settle_claim_read, "the claimed log was read, not committed")                                          \
    X(settle_claim_commit_sent, "COMMIT of the claim was sent, its answer not read")                         \
    X(settle_claimed, "the claim is committed, nothing of the log was compared")                             \
    X(settle_compared, "count and watermarks fit, consuming has not begun")                                  \
    X(settle_rederive_before, "a range of trade rows is going to be read for its notices")                   \
    X(settle_rederive_after, "the notices of that range were produced")                                      \
    X(settle_republish_before, "a range of wallets is going to be read for Redis")                           \
    X(settle_republish_after, "the wallets of that range are queued for Redis")                              \
    X(settle_polled, "records were taken from Kafka")                                                        \
    X(settle_last_checked, "the last settled record is still the same")                                      \
    X(settle_try_before, "a suspect record is going to be counted")                                          \
    X(settle_try_after, "the try of a suspect record is counted")                                            \
    X(settle_known_read, "repeats were looked up before the transaction")                                    \
    X(settle_begun, "BEGIN of a settling transaction")                                                       \
    X(settle_progress_locked, "the progress row is locked and ours")                                         \
    X(settle_credits_locked, "a statement has locked credit rows")                                           \
    X(settle_wallets_opened, "wallets of credits exist")                                                     \
    X(settle_wallets_locked, "a statement has locked wallets")                                               \
    X(settle_planned, "the plan is made, nothing is written")                                                \
    X(settle_trades_inserted, "the trade rows are inserted")                                                 \
    X(settle_rolled_back, "a transaction was rolled back")                                                   \
    X(settle_repeats_found, "repeats were looked up after a duplicate key")                                  \
    X(settle_dead_letters_inserted, "the dead letters are inserted")                                         \
    X(settle_wallets_written, "the wallets are written")                                                     \
    X(settle_credits_closed, "a statement has closed credits")                                               \
    X(settle_batch_inserted, "the batch row is inserted")                                                    \
    X(settle_progress_moved, "the progress row is moved, COMMIT is next")                                    \
    X(settle_commit_sent, "COMMIT was sent, its answer not read")                                            \
    X(settle_committed, "COMMIT was answered, nothing was told")                                             \
    X(settle_lookup_before, "the answer to COMMIT is lost, nothing was asked")                               \
    X(settle_lookup_locked, "the look-up of a lost COMMIT holds the progress row")                           \
    X(settle_lookup_after, "the look-up of a lost COMMIT has told")                                          \
    X(settle_publish_queued, "the batch's wallets are queued for Redis")                                     \
    X(settle_publish_before, "a round of wallets is going to be sent to Redis")                              \
    X(settle_publish_part, "Redis has answered a part of the round")                                         \
    X(settle_publish_after, "Redis has answered the whole round")                                            \
    X(settle_notice_before, "a notice is going to be produced")                                              \
    X(settle_notice_after, "a notice is handed to the producer")                                             \
    X(settle_notice_acked, "Kafka has acknowledged a notice")                                                \
    X(settle_offset_before, "the offset is going to be committed to Kafka")                                  \
    X(settle_offset_after, "the offset commit is handed to the consumer")                                    \
    X(settle_notified_before, "notified_offset is going to be written alone")                                \
    X(settle_notified_after, "notified_offset is written")                                                   \
    X(settle_revoked, "the partition is given back, the group not left")                                     \
    X(ingest_reserve_before, "a gift is going to be reserved")                                               \
    X(ingest_reserve_after, "a gift is reserved, nothing was produced")                                      \
    X(ingest_produce_after, "the command is handed to the producer")                                         \
    X(ingest_accept_before, "Kafka has acknowledged the command, the marker still says pending")             \
    X(ingest_accept_after, "the marker's change is handed to Redis, the 202 not sent")                       \
    X(ingest_answered, "the 202 is handed to the connection")                                                \
    X(sweep_rollup_begun, "BEGIN of a roll-up")                                                              \
    X(sweep_rollup_locked, "the rollup row is locked")                                                       \
    X(sweep_rollup_read, "the end of the range is read")                                                     \
    X(sweep_rollup_summed, "the range is summed, nothing is written")                                        \
    X(sweep_rollup_income, "a statement has inserted income rows")                                           \
    X(sweep_rollup_accounts, "a statement has raised income accounts")                                       \
    X(sweep_rollup_moved, "the rollup row is moved, COMMIT is next")                                         \
    X(sweep_rollup_commit_sent, "COMMIT of a roll-up was sent, its answer not read")                         \
    X(sweep_rollup_committed, "the roll-up is committed")

#ifdef GF_POINTS
#define GF_POINT_ENUM(name, text) GF_POINT_##name,
enum gf_point { GF_POINT_MAP(GF_POINT_ENUM) GF_POINT_COUNT };

void gf_point_pass(enum gf_point point);
/* false: there is no such point. */
_Bool gf_point_about(int i, const char **name_r, const char **text_r);
#define GF_POINT(name) gf_point_pass(GF_POINT_##name)
#else
#define GF_POINT(name) ((void)0)
#endif
