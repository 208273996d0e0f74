-- +goose Up

-- One number for each batch, of whichever node: the version of the rows that it writes.
CREATE SEQUENCE row_versions AS bigint;

-- Values are mostly ciphertext, which does not compress. Rows are written again and again: room for that in each page.
CREATE TABLE rows (
    key     bytea  PRIMARY KEY,
    value   bytea  NOT NULL,
    version bigint NOT NULL
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE rows ALTER COLUMN value SET STORAGE EXTERNAL;

-- One row: value says who may use the database (see store.Fence), note the same for people. epoch is the highest of the logs
-- that were there before the last copy into it, so that no process of then can pass for one of now.
CREATE TABLE fence (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    value  bytea   NOT NULL,
    note   text    NOT NULL,
    epoch  bigint  NOT NULL
);
INSERT INTO fence (value, note, epoch) VALUES ('', '', 0);

-- One row for each node. epoch counts the processes that have been this node: only the last one may write. next is the
-- index of its next change, version that of its last batch.
CREATE TABLE logs (
    node    text   PRIMARY KEY,
    epoch   bigint NOT NULL,
    next    bigint NOT NULL,
    version bigint NOT NULL
) WITH (fillfactor = 50);

-- The last transaction of each process, so that one whose end is not known can be asked for, and be made impossible.
CREATE TABLE commits (
    node   text    NOT NULL,
    epoch  bigint  NOT NULL,
    number bigint  NOT NULL,
    void   boolean NOT NULL,
    PRIMARY KEY (node, epoch, number)
) WITH (fillfactor = 50);

-- +goose Down
DROP TABLE commits;
DROP TABLE logs;
DROP TABLE fence;
DROP TABLE rows;
DROP SEQUENCE row_versions;
