-- What the golden backup was taken of, run in an empty database named "golden".
CREATE ROLE "golden owner" NOLOGIN;
CREATE ROLE golden_group NOLOGIN;
CREATE ROLE "golden ""reader""" LOGIN CONNECTION LIMIT 3;
GRANT golden_group TO "golden ""reader""";
ALTER DATABASE golden OWNER TO "golden owner";
ALTER DATABASE golden SET search_path TO "$user", public, "odd "" schema";
ALTER DATABASE golden SET work_mem TO '8MB';
ALTER ROLE golden_group IN DATABASE golden SET datestyle TO 'German, DMY';
ALTER DATABASE golden CONNECTION LIMIT 55;
GRANT CREATE ON DATABASE golden TO golden_group WITH GRANT OPTION;
REVOKE TEMPORARY ON DATABASE golden FROM PUBLIC;
COMMENT ON DATABASE golden IS E'the golden one: \\ '' " ü 😀';

CREATE SCHEMA "odd "" schema" AUTHORIZATION "golden owner";
CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s "fine"');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE address AS (street text, number int, moods mood[]);
CREATE TYPE span AS RANGE (subtype = float8);

CREATE TABLE everything (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, i2 smallint, i4 int, i8 bigint, n numeric, f4 real, f8 double precision, m money, b boolean,
	c char(5), v varchar(9), t text, y bytea, d date, tm time, tz timetz, ts timestamp, tsz timestamptz, iv interval, u uuid, j json, jb jsonb, x xml,
	ip inet, net cidr, mac macaddr, mac8 macaddr8, bt bit(3), vb varbit, p point, l line, s lseg, bx box, pa path, po polygon, ci circle,
	tv tsvector, tq tsquery, o oid, lsn pg_lsn, e mood, dom positive, comp address, r4 int4range, rn numrange, rt tstzrange, mr int4multirange, rs span,
	a1 int[], a2 text[][], a3 mood[], a4 address[], ch "char", nm name, doubled bigint GENERATED ALWAYS AS (i4::bigint * 2) STORED);
INSERT INTO everything (i2, i4, i8, n, f4, f8, m, b, c, v, t, y, d, tm, tz, ts, tsz, iv, u, j, jb, x, ip, net, mac, mac8, bt, vb, p, l, s, bx, pa, po, ci,
	tv, tq, o, lsn, e, dom, comp, r4, rn, rt, mr, rs, a1, a2, a3, a4, ch, nm) VALUES
	(-32768, 2147483647, -9223372036854775808, 12345678901234567890.000100, 1.1, 0.1, 1234.56, true, 'ab', 'varchar', E'tab\t newline\n cr\r backslash \\ \\N \\.\n\\.\n ü 😀',
	'\x00ff5c0a', '0044-03-15 BC', '23:59:59.999999', '12:00:00+05:30', '2026-11-24 12:34:56.789', '1999-12-31 23:59:60 America/New_York', '1 year -2 mons 3 days -04:05:06.7',
	'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"b": 1,  "a":[]}', '{"b": 1, "a": "\u00fc\\"}', 'text <a b="c"/>', '10.0.0.1/8', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05',
	B'101', B'1101', '(1.5,-2)', '{1,2,3}', '[(0,0),(1,1)]', '(1,1),(0,0)', '[(0,0),(1,1)]', '((0,0),(1,1),(1,0))', '<(0,0),2>', 'a:1 fat:2 cat:3', 'fat & (cat | !rat)',
	4294967295, '16/B374D848', 'it''s "fine"', 7, ROW('a "street", (odd)', NULL, '{sad,NULL}'), '[1,10)', '(,5.5]', '[2020-01-01 00:00+00,)', '{[1,3),[5,9)}', '[0.5,1.5]',
	'{1,NULL,3}', '{{a,"b,c"},{"NULL",NULL}}', '{ok,sad}', ARRAY[ROW('x', 1, NULL)::address], 'x', 'a name'),
	(NULL, NULL, NULL, 'NaN', 'NaN', '-Infinity', '-0.01', false, '', '', '', '', 'infinity', '00:00', '00:00+00', '-infinity', 'epoch', '0', NULL, 'null', 'null', '', '::1', '::/0', NULL, NULL,
	B'000', B'', NULL, NULL, NULL, NULL, '((0,0))', NULL, NULL, '', '', 0, '0/0', 'sad', 1, ROW(NULL, NULL, NULL), 'empty', 'empty', NULL, '{}', 'empty', '{}', '{}', '{}', '{}', '', '');
INSERT INTO everything DEFAULT VALUES;
CREATE INDEX everything_jb ON everything USING gin (jb);
CREATE INDEX "odd; ""index""" ON everything (lower(t)) WHERE t IS NOT NULL;

CREATE TABLE "odd "" schema"."T'able\; -- x
" ("a b" int, "\" text, "$1" text DEFAULT E'\\');
INSERT INTO "odd "" schema"."T'able\; -- x
" VALUES (1, E'\b\f\n\r\t\v\\', 'a'), (NULL, '', NULL);
ALTER TABLE "odd "" schema"."T'able\; -- x
" OWNER TO "golden owner";

-- More than 1024 pages, so that it is read in two ranges.
CREATE TABLE long (id int PRIMARY KEY, filler text) WITH (fillfactor = 10);
INSERT INTO long SELECT g, repeat(chr(97 + g % 26), 500) FROM generate_series(1, 1200) g;

CREATE TABLE nothing ();
INSERT INTO nothing DEFAULT VALUES;
INSERT INTO nothing DEFAULT VALUES;
CREATE TABLE empty_table (a int, b text);
CREATE UNLOGGED TABLE fleeting (a int);
INSERT INTO fleeting VALUES (1);

CREATE TABLE hashed (e mood, v int) PARTITION BY HASH (e);
CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE INDEX ON hashed (v);
INSERT INTO hashed SELECT (ARRAY['sad', 'ok', NULL])[1 + g % 3]::mood, g FROM generate_series(1, 30) g;
CREATE TABLE events (id int, at date NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE events_2025 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE events_other PARTITION OF events DEFAULT;
INSERT INTO events SELECT g, '2025-12-20'::date + g FROM generate_series(1, 30) g;
CREATE TABLE facts (event int, at date, note text, FOREIGN KEY (event, at) REFERENCES events);
INSERT INTO facts SELECT id, at, 'note ' || id FROM events WHERE id <= 5;
CREATE TABLE parent (a int CHECK (a >= 0)); CREATE TABLE child (b int) INHERITS (parent);
ALTER TABLE parent ADD COLUMN late text; INSERT INTO child VALUES (1, 2, 'l'); INSERT INTO parent VALUES (3, 'p');
CREATE TABLE booked (room int, during tsrange, EXCLUDE USING gist (during WITH &&)); INSERT INTO booked VALUES (1, '[2020-01-01,2020-01-02)');

CREATE VIEW by_event AS SELECT e.id, count(f.*) AS facts FROM events e LEFT JOIN facts f ON f.event = e.id GROUP BY e.id;
CREATE MATERIALIZED VIEW totals AS SELECT * FROM by_event WHERE facts > 0; CREATE UNIQUE INDEX ON totals (id);
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN NEW.note := 'stamped'; RETURN NEW; END $f$;
CREATE TRIGGER stamp BEFORE INSERT ON facts FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE RULE quiet AS ON DELETE TO booked DO INSTEAD NOTHING;
ALTER TABLE facts ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON facts USING (note = current_user);
CREATE SEQUENCE ticket START 7 INCREMENT -3 MINVALUE -1000 MAXVALUE 100; SELECT nextval('ticket'); SELECT nextval('ticket');
CREATE SEQUENCE "odd "" schema"."un'used";
CREATE STATISTICS event_stats ON id, at FROM events;
CREATE PUBLICATION news FOR TABLE facts, long;

SELECT lo_from_bytea(900001, 'small'); SELECT lo_create(900002); SELECT lo_from_bytea(900003, convert_to(repeat('0123456789abcdef', 20000), 'UTF8'));
ALTER LARGE OBJECT 900001 OWNER TO golden_group; GRANT SELECT ON LARGE OBJECT 900001 TO "golden ""reader"""; COMMENT ON LARGE OBJECT 900003 IS 'of two pieces';

ALTER TABLE facts OWNER TO "golden owner"; ALTER TABLE hashed OWNER TO golden_group;
REVOKE ALL ON facts FROM "golden owner"; GRANT SELECT ON facts TO "golden ""reader"""; GRANT UPDATE (note) ON facts TO golden_group;
GRANT USAGE ON SCHEMA "odd "" schema" TO "golden ""reader""";
ALTER DEFAULT PRIVILEGES FOR ROLE "golden owner" GRANT SELECT ON TABLES TO "golden ""reader""";
COMMENT ON TABLE facts IS E'what \\ they''ve seen'; COMMENT ON CONSTRAINT events_pkey ON events IS 'of an event'; COMMENT ON INDEX "odd; ""index""" IS 'odd';
