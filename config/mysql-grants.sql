-- What the roles' user may do: with these, no fault of the program can change or remove a trade or a batch. `giftflow init` makes and changes
-- tables and needs a user who owns the database. No SUPER, no READ_ONLY ADMIN: read_only must bind this user, or a replica would take its writes.
-- Once, on the primary, after `giftflow init`, with the names and the password of your own:
--   CREATE USER giftflow_app@'%' IDENTIFIED BY '...';
GRANT SELECT, INSERT ON giftflow.* TO giftflow_app@'%';
GRANT UPDATE ON giftflow.wallet TO giftflow_app@'%';
GRANT UPDATE ON giftflow.progress TO giftflow_app@'%';
GRANT UPDATE ON giftflow.dead_letter TO giftflow_app@'%';
GRANT UPDATE ON giftflow.rollup TO giftflow_app@'%';
GRANT UPDATE ON giftflow.income_account TO giftflow_app@'%';
GRANT UPDATE ON giftflow.gift TO giftflow_app@'%';
GRANT UPDATE, DELETE ON giftflow.gift_price TO giftflow_app@'%';
GRANT UPDATE ON giftflow.product TO giftflow_app@'%';
GRANT UPDATE ON giftflow.credit TO giftflow_app@'%';
GRANT UPDATE ON giftflow.pay_order TO giftflow_app@'%';
GRANT UPDATE ON giftflow.pay_attempt TO giftflow_app@'%';
GRANT UPDATE ON giftflow.pay_notice TO giftflow_app@'%';
