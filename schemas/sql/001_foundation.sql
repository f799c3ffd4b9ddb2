-- SPDX-License-Identifier: Apache-2.0
-- giftflow, migration 1: wallets, trades, progress, host income, gifts, recharge.
-- Applied by `giftflow init`, statement by statement; a repeat after a crash in the middle does no harm (IF NOT EXISTS).
-- Portable between MySQL >= 8.0.16 (CHECKs), MariaDB 10.11 and TiDB. Times are unix milliseconds: no time zones. No foreign
-- keys: they would take locks in the hot path. Money is BIGINT in coins (or fen where the name says so).
-- The names of tables and columns are a contract: verification programs outside this tree read them.

-- Which migrations have been applied.
CREATE TABLE IF NOT EXISTS schema_migration (
  number INT NOT NULL,
  name VARCHAR(100) NOT NULL,
  applied_ms BIGINT NOT NULL,
  PRIMARY KEY (number)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- What init pinned of each topic. incarnation rises when a topic had to be made anew; it is the high part of frame seqs.
CREATE TABLE IF NOT EXISTS topic (
  topic VARCHAR(200) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  incarnation INT NOT NULL,
  partitions INT NOT NULL,
  created_ms BIGINT NOT NULL,
  PRIMARY KEY (topic)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- no second index: hot row; last_* heads the statement chain; ver +1 per settled trade and per freeze = Redis version
CREATE TABLE IF NOT EXISTS wallet (
  user_id BIGINT NOT NULL,
  balance BIGINT NOT NULL,
  debt BIGINT NOT NULL DEFAULT 0,
  ver BIGINT NOT NULL DEFAULT 1,
  status TINYINT NOT NULL DEFAULT 1,
  total_recharged BIGINT NOT NULL DEFAULT 0,
  total_spent BIGINT NOT NULL DEFAULT 0,
  last_log SMALLINT NOT NULL DEFAULT 0,
  last_off BIGINT NOT NULL DEFAULT -1,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  PRIMARY KEY (user_id),
  CHECK (balance >= 0),
  CHECK (debt >= 0)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- One row per consumed command, whatever the outcome: outcome, dedupe and outbox in one. The CHECKs are G1 per row.
-- batch.hash covers a row in the byte order of src/core/trade_bytes.c: the columns below in order, log included, big-endian.
-- seq = wallet.ver after; kinds 1 gift 2 recharge 3 adjust 4 gift_refund 5 chargeback; INSERT/SELECT grant only
CREATE TABLE IF NOT EXISTS trade (
  log SMALLINT NOT NULL,
  off BIGINT NOT NULL,
  user_id BIGINT NOT NULL,
  request_id BINARY(16) NOT NULL,
  kind TINYINT NOT NULL,
  outcome SMALLINT NOT NULL,
  amount BIGINT NOT NULL,
  debt_delta BIGINT NOT NULL DEFAULT 0,
  seq BIGINT NOT NULL,
  balance_after BIGINT NOT NULL,
  prev_log SMALLINT NOT NULL,
  prev_off BIGINT NOT NULL,
  gift_id INT NOT NULL,
  gift_type TINYINT NOT NULL,
  quantity INT NOT NULL,
  price BIGINT NOT NULL,
  receiver_id BIGINT NOT NULL,
  room_id BIGINT NOT NULL,
  host_coins BIGINT NOT NULL,
  ref BINARY(16) NULL,
  fp BINARY(8) NOT NULL,
  ts_ms BIGINT NOT NULL,
  PRIMARY KEY (log, off),  -- appends; outbox and roll-up range scans; no record twice
  UNIQUE KEY request (request_id, user_id),  -- G2; this column order appends (F16); also serves GET /v1/requests
  CHECK (outcome = 0 OR (amount = 0 AND debt_delta = 0 AND host_coins = 0)),
  CHECK (kind <> 1 OR (amount <= 0 AND host_coins BETWEEN 0 AND -amount))
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- live = 1 or NULL: one live log per partition; `log` handed out by init, never AUTO_INCREMENT
CREATE TABLE IF NOT EXISTS progress (
  log SMALLINT NOT NULL,
  topic VARCHAR(200) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  part INT NOT NULL,
  incarnation INT NOT NULL,
  live TINYINT NULL,
  partitions INT NOT NULL,
  next_offset BIGINT NOT NULL DEFAULT 0,
  notified_offset BIGINT NOT NULL DEFAULT 0,
  last_off BIGINT NOT NULL DEFAULT -1,
  last_fp BINARY(8) NULL,
  last_hash BINARY(32) NULL,
  epoch BIGINT NOT NULL DEFAULT 0,
  owner VARCHAR(100) NOT NULL DEFAULT '',
  stalled_at BIGINT NOT NULL DEFAULT -1,
  stalls INT NOT NULL DEFAULT 0,
  tried_offset BIGINT NOT NULL DEFAULT -1,
  tries INT NOT NULL DEFAULT 0,
  PRIMARY KEY (log),
  UNIQUE KEY inc (topic, part, incarnation),
  UNIQUE KEY live (topic, part, live),
  CHECK (notified_offset <= next_offset)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- G1 witness; hash = SHA-256(previous batch's hash of this log, or 32 zero bytes, then its trade rows in offset order)
CREATE TABLE IF NOT EXISTS batch (
  log SMALLINT NOT NULL,
  next_offset BIGINT NOT NULL,
  first_offset BIGINT NOT NULL,
  epoch BIGINT NOT NULL,
  settled INT NOT NULL,
  rejected INT NOT NULL,
  duplicate INT NOT NULL,
  dead INT NOT NULL,
  debit BIGINT NOT NULL,
  credit BIGINT NOT NULL,
  host BIGINT NOT NULL,
  platform BIGINT NOT NULL,
  committed_ms BIGINT NOT NULL,
  hash BINARY(32) NOT NULL,
  PRIMARY KEY (log, next_offset)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE IF NOT EXISTS dead_letter (
  log SMALLINT NOT NULL,
  off BIGINT NOT NULL,
  reason SMALLINT NOT NULL,
  detail VARCHAR(255) NOT NULL,
  rec_key VARBINARY(255) NULL,
  payload MEDIUMBLOB NULL,
  state TINYINT NOT NULL DEFAULT 0,
  ts_ms BIGINT NOT NULL,
  PRIMARY KEY (log, off),
  KEY state (state, log, off)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- own row: never blocks settle
CREATE TABLE IF NOT EXISTS rollup (
  log SMALLINT NOT NULL,
  rolled_offset BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (log)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- Written by sweep: one row per receiver and rolled-up range [from_offset, to_offset). The host's statement.
CREATE TABLE IF NOT EXISTS income (
  log SMALLINT NOT NULL,
  from_offset BIGINT NOT NULL,
  receiver_id BIGINT NOT NULL,
  to_offset BIGINT NOT NULL,
  gross BIGINT NOT NULL,
  host BIGINT NOT NULL,
  created_ms BIGINT NOT NULL,
  PRIMARY KEY (log, from_offset, receiver_id),
  KEY receiver (receiver_id, created_ms)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- may go negative by clawback; withdrawal checks it
CREATE TABLE IF NOT EXISTS income_account (
  receiver_id BIGINT NOT NULL,
  balance BIGINT NOT NULL,
  total_gross BIGINT NOT NULL,
  total_host BIGINT NOT NULL,
  ver BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  PRIMARY KEY (receiver_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- status 1 on sale, 2 off shelf
CREATE TABLE IF NOT EXISTS gift (
  gift_id INT NOT NULL,
  name VARCHAR(100) NOT NULL,
  cover_url VARCHAR(500) NOT NULL,
  effect_url VARCHAR(500) NOT NULL,
  max_quantity INT NOT NULL DEFAULT 9999,
  status TINYINT NOT NULL,
  ver BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  PRIMARY KEY (gift_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- off shelf = close the interval; overlap prevented by locking the gift row
CREATE TABLE IF NOT EXISTS gift_price (
  gift_id INT NOT NULL,
  valid_from_ms BIGINT NOT NULL,
  valid_to_ms BIGINT NOT NULL,
  price BIGINT NOT NULL,
  share_bp SMALLINT NOT NULL,
  PRIMARY KEY (gift_id, valid_from_ms),
  CHECK (price > 0),
  CHECK (share_bp BETWEEN 0 AND 10000),
  CHECK (valid_to_ms > valid_from_ms)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE IF NOT EXISTS product (
  product_id INT NOT NULL,
  type TINYINT NOT NULL,
  name VARCHAR(100) NOT NULL,
  price_fen BIGINT NOT NULL,
  coins BIGINT NOT NULL,
  biz_code INT NOT NULL,
  status TINYINT NOT NULL,
  ver BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  PRIMARY KEY (product_id),
  CHECK (price_fen > 0),
  CHECK (coins >= 0)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE IF NOT EXISTS pay_order (
  order_id BINARY(16) NOT NULL,
  user_id BIGINT NOT NULL,
  request_id BINARY(16) NOT NULL,
  fp BINARY(8) NOT NULL,
  credit_id BINARY(16) NOT NULL,
  open_user_id BIGINT NULL,
  product_id INT NOT NULL,
  coins BIGINT NOT NULL,
  amount_fen BIGINT NOT NULL,
  channel TINYINT NOT NULL,
  source TINYINT NOT NULL,
  biz_code INT NOT NULL,
  status TINYINT NOT NULL,
  trade_no VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL,
  refunded_fen BIGINT NOT NULL DEFAULT 0,
  credited_log SMALLINT NULL,
  credited_off BIGINT NULL,
  created_ms BIGINT NOT NULL,
  expires_ms BIGINT NOT NULL,
  paid_ms BIGINT NULL,
  due_ms BIGINT NULL,
  tries INT NOT NULL DEFAULT 0,
  PRIMARY KEY (order_id),
  UNIQUE KEY request (user_id, request_id),  -- idempotent create
  UNIQUE KEY open_user (open_user_id),  -- one unpaid order, race-free
  UNIQUE KEY credit (credit_id),
  KEY due (due_ms),  -- sweep's only scan, NULL = nothing to do
  KEY history (user_id, order_id),
  CHECK (refunded_fen BETWEEN 0 AND amount_fen)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE IF NOT EXISTS pay_attempt (
  channel TINYINT NOT NULL,
  trade_no VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  order_id BINARY(16) NOT NULL,
  amount_fen BIGINT NOT NULL,
  status TINYINT NOT NULL,
  paid_ms BIGINT NOT NULL,
  due_ms BIGINT NULL,
  PRIMARY KEY (channel, trade_no),  -- two payments of one order show here
  KEY ord (order_id),
  KEY due (due_ms)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- digest = SHA-256 of channel, trade_no, state, refund no, amount (not of the body: WeChat re-encrypts)
CREATE TABLE IF NOT EXISTS pay_notice (
  channel TINYINT NOT NULL,
  digest BINARY(32) NOT NULL,
  order_id BINARY(16) NULL,
  result SMALLINT NOT NULL,
  received_ms BIGINT NOT NULL,
  repeats INT NOT NULL DEFAULT 0,
  headers BLOB NOT NULL,
  body MEDIUMBLOB NOT NULL,
  PRIMARY KEY (channel, digest),
  KEY ord (order_id),
  KEY result (result, received_ms)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- Credits that settlement believes: status 1 open, 2 credited, 3 refused for good; due_ms: sweep produces the command again, NULL = never.
CREATE TABLE IF NOT EXISTS credit (
  credit_id BINARY(16) NOT NULL,
  kind TINYINT NOT NULL,
  user_id BIGINT NOT NULL,
  coins BIGINT NOT NULL,
  target_user BIGINT NULL,
  target_request BINARY(16) NULL,
  order_id BINARY(16) NULL,
  part INT NOT NULL DEFAULT 0,
  actor VARCHAR(100) NOT NULL,
  reason VARCHAR(255) NOT NULL,
  status TINYINT NOT NULL,
  created_ms BIGINT NOT NULL,
  due_ms BIGINT NULL,
  PRIMARY KEY (credit_id),
  UNIQUE KEY target (target_request, target_user, part),  -- a gift is refunded once
  UNIQUE KEY ord (order_id, part),
  KEY due (due_ms)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE IF NOT EXISTS pay_topic (
  biz_code INT NOT NULL,
  topic VARCHAR(200) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  status TINYINT NOT NULL,
  remark VARCHAR(200) NOT NULL,
  PRIMARY KEY (biz_code)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
