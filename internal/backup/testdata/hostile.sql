DO $$ BEGIN
	IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'shop owner') THEN
		CREATE ROLE "shop owner" NOLOGIN; CREATE ROLE "Reader""s" NOLOGIN; CREATE ROLE helper NOLOGIN; GRANT helper TO "shop owner";
	END IF;
END $$;
DO $$ DECLARE d text := quote_ident(current_database()); BEGIN
	EXECUTE 'ALTER DATABASE ' || d || ' OWNER TO "shop owner"';
	EXECUTE 'COMMENT ON DATABASE ' || d || ' IS ''the shop''''s \ database''';
	EXECUTE 'ALTER DATABASE ' || d || ' SET search_path TO "$user", public, "odd "" schema"';
	EXECUTE 'ALTER DATABASE ' || d || ' SET work_mem TO ''8MB''';
	EXECUTE 'ALTER ROLE helper IN DATABASE ' || d || ' SET datestyle TO ''German, DMY''';
	EXECUTE 'ALTER DATABASE ' || d || ' CONNECTION LIMIT 77';
	EXECUTE 'GRANT CREATE ON DATABASE ' || d || ' TO helper WITH GRANT OPTION';
	EXECUTE 'REVOKE TEMPORARY ON DATABASE ' || d || ' FROM PUBLIC';
END $$;
CREATE SCHEMA "odd "" schema" AUTHORIZATION helper;
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE customers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, email text UNIQUE, note text, m mood, upper_name text GENERATED ALWAYS AS (upper(name)) STORED);
INSERT INTO customers (name, email, note, m) SELECT 'n' || g, 'e' || g, CASE WHEN g % 3 = 0 THEN NULL ELSE E'tab\there \\N \n line ' || g END, 'ok' FROM generate_series(1, 5000) g;
CREATE INDEX "odd; index" ON customers (lower(name)) WHERE note IS NOT NULL;
CREATE TABLE orders (id int PRIMARY KEY, customer bigint NOT NULL REFERENCES customers, amount positive, at timestamptz DEFAULT now());
INSERT INTO orders SELECT g, 1 + g % 5000, g, '2020-01-01'::timestamptz + g * interval '1 second' FROM generate_series(1, 20000) g;
CREATE TABLE items (o int REFERENCES orders, n int, doc jsonb, PRIMARY KEY (o, n));
INSERT INTO items SELECT g, g % 7, jsonb_build_object('k', g, 'v', repeat('x', g % 90)) FROM generate_series(1, 20000) g;
CREATE TABLE "odd "" schema"."T'able; -- x" (t text, "a b" int, "\" int);
INSERT INTO "odd "" schema"."T'able; -- x" VALUES ('t', 1, NULL), (NULL, NULL, 2);
ALTER TABLE "odd "" schema"."T'able; -- x" OWNER TO "shop owner";
CREATE INDEX "
--
-- Name: a; Type: INDEX; Schema: b; Owner: c
--
" ON "odd "" schema"."T'able; -- x" (t);
CREATE TABLE nothing ();
INSERT INTO nothing DEFAULT VALUES;
INSERT INTO nothing DEFAULT VALUES;
CREATE TABLE empty_table (a int, b text[]);
CREATE TABLE values_of_all_kinds (a int[], b int4range, c customers, d bytea, e float8, f interval, g money, h xid, i tsvector, j inet);
INSERT INTO values_of_all_kinds VALUES ('{1,NULL,3}', '[1,5)', ROW(1,'x','y',NULL,'sad','Z'), '\x00ff', 'NaN', '1 year 2 days', 12.5, '77', 'a fat cat', '10.0.0.1/8'), (NULL, 'empty', NULL, '', '-Infinity', '-1 mon', NULL, NULL, '', NULL);
CREATE TABLE events (id int, at date NOT NULL, kind mood, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE events_2020 PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE events_2021 PARTITION OF events FOR VALUES FROM ('2021-01-01') TO ('2022-01-01') PARTITION BY RANGE (at);
CREATE TABLE events_2021_h1 PARTITION OF events_2021 FOR VALUES FROM ('2021-01-01') TO ('2021-07-01');
CREATE TABLE events_other PARTITION OF events DEFAULT;
CREATE INDEX ON events (kind);
INSERT INTO events SELECT g, '2020-06-01'::date + g % 300, 'ok' FROM generate_series(1, 3000) g;
CREATE TABLE facts (event int, at date, FOREIGN KEY (event, at) REFERENCES events);
INSERT INTO facts SELECT id, at FROM events LIMIT 100;
CREATE TABLE hashed (m mood, v int) PARTITION BY HASH (m);
CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE INDEX ON hashed (v);
INSERT INTO hashed SELECT (ARRAY['sad', 'ok', NULL])[1 + g % 3]::mood, g FROM generate_series(1, 300) g;
CREATE TABLE parent (a int CHECK (a >= 0)); CREATE TABLE child (b int) INHERITS (parent);
ALTER TABLE parent ADD COLUMN late text; INSERT INTO child VALUES (1, 2, 'l'); INSERT INTO parent VALUES (3, 'p');
CREATE UNLOGGED TABLE fleeting (a int PRIMARY KEY); INSERT INTO fleeting VALUES (1), (2);
CREATE TABLE booked (room int, during tsrange, EXCLUDE USING gist (during WITH &&)); INSERT INTO booked VALUES (1, '[2020-01-01,2020-01-02)');
CREATE FUNCTION sums(int) RETURNS bigint LANGUAGE plpgsql STABLE AS $f$ BEGIN RETURN (SELECT sum(amount) FROM public.orders WHERE customer = $1); END $f$;
CREATE VIEW by_customer AS SELECT c.id, c.name, count(o.*) AS orders FROM customers c JOIN orders o ON o.customer = c.id GROUP BY c.id;
CREATE VIEW big AS SELECT * FROM by_customer WHERE orders > 3;
CREATE MATERIALIZED VIEW totals AS SELECT * FROM big; CREATE UNIQUE INDEX ON totals (id);
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN NEW.at := '1999-01-01'; RETURN NEW; END $f$;
CREATE TRIGGER stamp BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE RULE quiet AS ON DELETE TO items DO INSTEAD NOTHING;
CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS $f$ BEGIN RAISE EXCEPTION 'nothing may be made here'; END $f$;
ALTER TABLE customers ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON customers USING (name = current_user);
ALTER TABLE customers FORCE ROW LEVEL SECURITY;
CREATE SEQUENCE ticket START 7 INCREMENT -3 MINVALUE -1000 MAXVALUE 100; SELECT nextval('ticket'); SELECT nextval('ticket');
CREATE SEQUENCE "odd "" schema"."un'used";
CREATE STATISTICS customer_stats ON name, email FROM customers;
SELECT lo_from_bytea(900001, 'small'); SELECT lo_create(900002); SELECT lo_from_bytea(900003, convert_to(repeat('0123456789abcdef', 50000), 'UTF8'));
ALTER LARGE OBJECT 900001 OWNER TO helper; GRANT SELECT ON LARGE OBJECT 900001 TO "Reader""s"; COMMENT ON LARGE OBJECT 900003 IS 'the long one';
ALTER TABLE orders OWNER TO "shop owner"; ALTER TABLE items OWNER TO "shop owner"; ALTER TABLE hashed OWNER TO helper;
REVOKE ALL ON orders FROM "shop owner"; GRANT SELECT ON orders TO "Reader""s"; GRANT UPDATE (amount) ON orders TO helper;
GRANT USAGE ON SCHEMA "odd "" schema" TO "Reader""s"; ALTER DEFAULT PRIVILEGES FOR ROLE "shop owner" GRANT SELECT ON TABLES TO "Reader""s";
COMMENT ON TABLE orders IS 'what \ they''ve ordered'; COMMENT ON CONSTRAINT items_o_fkey ON items IS 'of an order'; COMMENT ON INDEX "odd; index" IS 'odd';
CREATE PUBLICATION news FOR TABLE customers, orders;
ALTER TABLE items CLUSTER ON items_pkey; ALTER TABLE items REPLICA IDENTITY USING INDEX items_pkey;
CREATE SCHEMA "..";
CREATE TABLE ".."."../../etc/passwd" ("COLUMN" int PRIMARY KEY, "new
line" text, "back\slash\." text, "tab	" text, "{}" text[], "$1" int, "%s" text, "select" int);
INSERT INTO ".."."../../etc/passwd" VALUES (1, E'a\nb\\N\t\\.', E'\\.', E'\\N', ARRAY['\N', NULL, '"', '{}', E'\n'], 1, '%d', 2), (2, NULL, '', E'\r\n', '{}', NULL, '日本', NULL);
CREATE TABLE "T" (t text, "T" text, oid_ int, xmin_ int); INSERT INTO "T" VALUES ('lower', 'upper', 1, 2);
CREATE TABLE t (t int, ctid_ tid); INSERT INTO t VALUES (1, '(3,4)'), (NULL, NULL);
CREATE TABLE "--
DROP TABLE orders; /*" (a int); INSERT INTO "--
DROP TABLE orders; /*" VALUES (1);
CREATE TYPE span AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE TYPE pair AS (a positive, b mood[], c span);
CREATE DOMAIN pairs AS pair[] CHECK (cardinality(VALUE) < 5);
CREATE DOMAIN "Strict" AS text COLLATE "C" NOT NULL DEFAULT 'd' CHECK (VALUE <> 'never');
CREATE TABLE typed (id int GENERATED BY DEFAULT AS IDENTITY (START 10 INCREMENT 5), p pair, q pairs, r span, s "Strict", t mood[], u positive[][], b bit(3), v bit varying, ts timestamp, tz timetz, dt date, js json, jb jsonb, n numeric, ch "char", c5 char(5), nm name, pt point, pl polygon, lsn pg_lsn, mac macaddr, uid uuid);
INSERT INTO typed (p, q, r, t, u, b, v, ts, tz, dt, js, jb, n, ch, c5, nm, pt, pl, lsn, mac, uid) VALUES
	(ROW(1, '{ok,NULL}', '[1,2)'), ARRAY[ROW(2, NULL, 'empty')::pair], '(-Infinity,Infinity)', '{sad}', '{{1,2},{3,4}}', '101', '1', 'infinity', '04:05:06-08', '4713-01-01 BC', '{"a" : 1}', '{"a" : 1}', 'NaN', 'x', 'a', 'n', '(1,2)', '((0,0),(1,1),(2,0))', '16/B374D848', '08:00:2b:01:02:03', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
CREATE TABLE made (a int, b int GENERATED ALWAYS AS (a * 2) STORED, c text DEFAULT 'x', d text GENERATED ALWAYS AS ('only') STORED); INSERT INTO made (a) VALUES (1), (NULL);
CREATE TABLE only_made (a int GENERATED ALWAYS AS (1 + 1) STORED); INSERT INTO only_made DEFAULT VALUES;
CREATE TABLE shrunk (gone int, a int, gone_too text, b text); INSERT INTO shrunk VALUES (1, 2, 'x', 'y'); ALTER TABLE shrunk DROP gone, DROP gone_too; INSERT INTO shrunk VALUES (3, 'z');
CREATE TABLE grown (a int); INSERT INTO grown VALUES (1); ALTER TABLE grown ADD b text DEFAULT 'not in the heap'; INSERT INTO grown VALUES (2, NULL);
CREATE TABLE side_parent (c text, a int); CREATE TABLE of_two (own int) INHERITS (parent, side_parent); ALTER TABLE side_parent ADD COLUMN later int DEFAULT 5;
INSERT INTO of_two (a, late, c, own, later) VALUES (1, 'l', 'c', 4, 6); INSERT INTO side_parent VALUES ('s', 1, 2);
CREATE TABLE deep (m mood, k int, v text) PARTITION BY LIST (m);
CREATE TABLE deep_sad PARTITION OF deep FOR VALUES IN ('sad') PARTITION BY HASH (m, k);
CREATE TABLE deep_sad_0 PARTITION OF deep_sad FOR VALUES WITH (MODULUS 3, REMAINDER 0); CREATE TABLE deep_sad_1 PARTITION OF deep_sad FOR VALUES WITH (MODULUS 3, REMAINDER 1);
CREATE TABLE deep_sad_2 (v text, gone int, k int, m mood); ALTER TABLE deep_sad_2 DROP gone; ALTER TABLE deep_sad ATTACH PARTITION deep_sad_2 FOR VALUES WITH (MODULUS 3, REMAINDER 2);
CREATE TABLE deep_rest PARTITION OF deep DEFAULT;
INSERT INTO deep SELECT CASE WHEN g % 2 = 0 THEN 'sad'::mood ELSE 'ok' END, g, 'v' || g FROM generate_series(1, 200) g;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RAISE EXCEPTION 'no'; END $f$;
CREATE TRIGGER refuse BEFORE INSERT ON typed FOR EACH STATEMENT EXECUTE FUNCTION refuse();
CREATE TRIGGER "Off" BEFORE INSERT ON made FOR EACH ROW EXECUTE FUNCTION refuse(); ALTER TABLE made DISABLE TRIGGER "Off";
CREATE TRIGGER always BEFORE INSERT ON shrunk FOR EACH ROW EXECUTE FUNCTION refuse(); ALTER TABLE shrunk ENABLE ALWAYS TRIGGER always;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON grown DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE RULE divert AS ON INSERT TO t DO INSTEAD INSERT INTO nothing DEFAULT VALUES;
CREATE RULE into_view AS ON INSERT TO big DO INSTEAD NOTHING;
CREATE VIEW "View on
view" AS SELECT * FROM big WHERE name <> E'\\' WITH LOCAL CHECK OPTION;
CREATE MATERIALIZED VIEW later AS SELECT count(*) AS n FROM totals; CREATE MATERIALIZED VIEW unfilled AS SELECT * FROM later WITH NO DATA;
CREATE RECURSIVE VIEW counting (n) AS VALUES (1) UNION ALL SELECT n + 1 FROM counting WHERE n < 3;
CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER "Far 'away'" FOREIGN DATA WRAPPER nowhere OPTIONS (host 'it''s'); CREATE USER MAPPING FOR helper SERVER "Far 'away'";
CREATE FOREIGN TABLE abroad (a int, b text DEFAULT 'x') SERVER "Far 'away'" OPTIONS (file '/dev/null');
CREATE TABLE mixed (a int) PARTITION BY RANGE (a); CREATE TABLE mixed_here PARTITION OF mixed FOR VALUES FROM (0) TO (10); CREATE FOREIGN TABLE mixed_abroad PARTITION OF mixed FOR VALUES FROM (10) TO (20) SERVER "Far 'away'";
INSERT INTO mixed VALUES (1), (2);
CREATE UNLOGGED TABLE "Fleeting too" (a serial, b bytea); INSERT INTO "Fleeting too" (b) SELECT decode(md5(g::text), 'hex') FROM generate_series(1, 50) g;
CREATE TABLE self (id int PRIMARY KEY, up int REFERENCES self DEFERRABLE); INSERT INTO self VALUES (1, 2), (2, 1);
CREATE TABLE ring_a (id int PRIMARY KEY, b int); CREATE TABLE ring_b (id int PRIMARY KEY, a int REFERENCES ring_a); INSERT INTO ring_a VALUES (1, 1); INSERT INTO ring_b VALUES (1, 1);
ALTER TABLE ring_a ADD FOREIGN KEY (b) REFERENCES ring_b NOT VALID;
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq); CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0'); CREATE COLLATION "Mine" FROM "C";
CREATE CAST (pair AS text) WITH INOUT; CREATE TEXT SEARCH CONFIGURATION simplest (COPY = simple); CREATE INDEX found ON customers USING gin (to_tsvector('simplest', name));
DO $$ BEGIN IF current_setting('server_version_num')::int >= 140000 THEN
	EXECUTE 'CREATE TABLE many (a int4multirange, b span_multirange)';
	EXECUTE 'INSERT INTO many VALUES (''{[1,3),[5,9)}'', ''{}'')';
END IF; END $$;
CREATE EVENT TRIGGER watch ON ddl_command_start WHEN TAG IN ('CREATE TABLE', 'CREATE INDEX', 'DROP SCHEMA', 'GRANT', 'CREATE EXTENSION') EXECUTE FUNCTION watch();
COMMENT ON EVENT TRIGGER watch IS 'watches';
