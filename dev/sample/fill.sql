-- Fills the sample. :traces is the number of traces, :per the observations of each; everything else
-- follows from them.
SELECT setseed(0.42);
CREATE TEMP TABLE word AS SELECT row_number() OVER () AS i, w FROM unnest(string_to_array(
	'the model answers with context from retrieved documents and cites sources when a user asks about orders refunds shipping delays invoices account security password reset latency cost tokens prompt system temperature function call schema error retry timeout rate limit embedding vector search index chunk rerank score evaluation dataset experiment trace span generation session feedback positive negative neutral customer support agent tool weather calendar booking flight hotel translation summary report draft email reply polite formal casual language german french spanish japanese 東京 naïve café Müller résumé 🙂 quote"mark back\slash tab', ' ')) w;
-- Rarer words, made of syllables, so that text has a language's many words: the n-th is used 1/n as often as the first.
INSERT INTO word SELECT 105 + g, s[1 + g % 31] || s[1 + g / 31 % 31] || CASE WHEN g % 3 > 0 THEN s[1 + g / 7 % 31] ELSE '' END
	FROM generate_series(1, 4000) g, (SELECT string_to_array('ba con di est fra gen ho in jur kla lo men nor op per qua res sta ter un ver wi xa ym zo tion ment able ing ed ous', ' ') AS s) x;
CREATE UNIQUE INDEX ON word (i);
CREATE FUNCTION pg_temp.words(seed bigint, n int) RETURNS text LANGUAGE sql STABLE AS
	'SELECT string_agg((SELECT w FROM pg_temp.word WHERE i = floor(exp(ln(4105.0::float8) * ((hashint8extended(seed * 131 + g, 7) & 1048575) / 1048576.0::float8)))::bigint), '' '') FROM generate_series(1, n) g';
CREATE FUNCTION pg_temp.id(kind text, n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS 'SELECT md5(kind || n)::uuid';
CREATE TEMP TABLE sentence AS SELECT g AS i, pg_temp.words(g, 8 + g % 40) AS s FROM generate_series(0, 16383) g;
CREATE UNIQUE INDEX ON sentence (i);
ANALYZE sentence;

INSERT INTO organizations SELECT pg_temp.id('org', g), 'Organisation ' || g, ROW('Street ' || g, 'City', lpad(g::text, 5, '0'))::address, '2025-01-01'::timestamptz + g * interval '7 hours' FROM generate_series(1, 50) g;
INSERT INTO projects SELECT pg_temp.id('project', g), pg_temp.id('org', 1 + g % 50), 'project-' || g, jsonb_build_object('retention', g % 90, 'sampling', (g % 10) / 10.0), CASE WHEN g % 17 = 0 THEN '2026-05-05'::timestamptz END FROM generate_series(1, 200) g;
INSERT INTO users (address, display_name, password_hash, preferences, created_at) SELECT 'user' || g || '@example.com', CASE WHEN g % 5 > 0 THEN 'User ' || g END, decode(md5('p' || g), 'hex'), jsonb_build_object('theme', CASE WHEN g % 2 = 0 THEN 'dark' ELSE 'light' END), '2025-02-02'::timestamptz + g * interval '1 hour' FROM generate_series(1, 5000) g;
INSERT INTO memberships SELECT g, pg_temp.id('org', 1 + g % 50), (ARRAY['owner', 'admin', 'member', 'viewer'])[1 + g % 4]::member_role FROM generate_series(1, 5000) g;
INSERT INTO api_keys (project_id, hashed, note, expires) SELECT pg_temp.id('project', 1 + g % 200), md5('k' || g), CASE WHEN g % 3 = 0 THEN E'line one\nline two\ttab' END, '2027-01-01'::date + g FROM generate_series(1, 1000) g;
INSERT INTO prompts (project_id, name, version, body, labels) SELECT pg_temp.id('project', 1 + g % 200), 'prompt-' || g / 5, 1 + g % 5, s, ARRAY['production', 'v' || g % 5] FROM generate_series(1, 4000) g JOIN sentence ON i = g % 16384;
INSERT INTO models (name, price, unit, valid) SELECT 'model-' || g, money_range(g / 100.0, g / 10.0), 'token', daterange('2025-01-01', NULL) FROM generate_series(1, 40) g;
INSERT INTO traces (id, project_id, name, user_ref, session_ref, input, output, metadata, tags, public, started_at, latency)
SELECT pg_temp.id('trace', g), pg_temp.id('project', 1 + g % 200), 'chat-' || g % 50, CASE WHEN g % 4 > 0 THEN 'user-' || g % 5000 END, 'session-' || g / 7,
	jsonb_build_object('messages', jsonb_build_array(jsonb_build_object('role', 'system', 'content', a.s), jsonb_build_object('role', 'user', 'content', b.s))),
	CASE WHEN g % 20 > 0 THEN jsonb_build_object('content', c.s, 'finish', 'stop', 'logprob', round(random()::numeric, 6)) END,
	jsonb_build_object('release', 'v1.' || g % 30, 'region', (ARRAY['eu', 'us', 'ap'])[1 + g % 3], 'request', md5(g::text)),
	ARRAY['tag-' || g % 9, 'env-' || g % 3], g % 100 = 0, '2026-08-01'::timestamptz + g * interval '11 seconds', (100 + g % 4000) * interval '1 millisecond'
FROM generate_series(1, :traces) g JOIN sentence a ON a.i = g % 64 JOIN sentence b ON b.i = (g * 7) % 16384 JOIN sentence c ON c.i = (g * 13 + 5) % 16384;
INSERT INTO observations
SELECT g, pg_temp.id('trace', 1 + g / :per), CASE WHEN g % :per > 0 THEN g - 1 END, (ARRAY['SPAN', 'GENERATION', 'EVENT'])[1 + g % 3], (ARRAY['DEBUG', 'DEFAULT', 'WARNING', 'ERROR'])[1 + g % 4]::trace_level,
	CASE WHEN g % 3 = 1 THEN 'model-' || 1 + g % 40 END, g % 3000, g % 900, ((g::bigint * 7919) % 1000003) / 1000000000.0, b.s,
	'2026-08-01'::timestamptz + g * interval '2 seconds', CASE WHEN g % 50 > 0 THEN '2026-08-01'::timestamptz + g * interval '2 seconds' + (g % 5000) * interval '1 ms' END
FROM generate_series(1, :traces * :per) g JOIN sentence b ON b.i = (g::bigint * 31 + g / 16384) % 16384;
INSERT INTO scores (trace_id, name, value, comment, created_at) SELECT pg_temp.id('trace', g), 'quality', CASE WHEN g % 11 = 0 THEN 'NaN' ELSE (g % 100) / 99.0 END, CASE WHEN g % 7 = 0 THEN '' WHEN g % 7 > 1 THEN 'ok ' || g END, '2026-08-02'::timestamp + g * interval '3 s' FROM generate_series(1, :traces) g;
INSERT INTO events SELECT g, '2026-08-20'::timestamptz + g * interval '30 seconds', (ARRAY['DEBUG', 'DEFAULT', 'WARNING', 'ERROR'])[1 + g % 4]::trace_level, jsonb_build_object('n', g) FROM generate_series(1, :traces) g;
INSERT INTO usage_by_level SELECT kind, count(*) FROM events GROUP BY kind;
INSERT INTO billing.invoices (org_id, period, total, paid) SELECT pg_temp.id('org', 1 + g % 50), daterange('2026-01-01'::date + g, '2026-02-01'::date + g), g * 1.25, g % 3 = 0 FROM generate_series(1, 600) g;
INSERT INTO billing.lines SELECT i, n, 'tokens', n * 0.5 FROM generate_series(1, 600) i, generate_series(1, 10) n;
INSERT INTO "Archive 2024"."Müller's ""old"" table" SELECT E'Straße\\' || g, g, NULLIF('t' || g % 3, 't0') FROM generate_series(1, 1000) g;
INSERT INTO media (project_id, name, content) SELECT pg_temp.id('project', g), 'picture-' || g, lo_from_bytea(0, decode(repeat(md5('m' || g), 4000), 'hex')) FROM generate_series(1, 40) g;
INSERT INTO datasets SELECT pg_temp.id('set', g), pg_temp.id('project', g), 'dataset ' || g FROM generate_series(1, 50) g;
INSERT INTO dataset_items SELECT pg_temp.id('item', g), pg_temp.id('set', 1 + g % 50), jsonb_build_object('q', a.s), jsonb_build_object('a', NULL) FROM generate_series(1, 5000) g JOIN sentence a ON a.i = g % 16384;
INSERT INTO documents (body, blob) SELECT string_agg(s, E'\n'), decode(md5(min(i)::text), 'hex') FROM sentence GROUP BY i / 64;
INSERT INTO audit_login (who, ip) SELECT 'user' || g, ('10.0.' || g % 250 || '.' || g % 7)::inet FROM generate_series(1, 2000) g;
INSERT INTO audit_change (who, what) SELECT 'user' || g, jsonb_build_object('field', g) FROM generate_series(1, 2000) g;
INSERT INTO sessions_cache SELECT md5('s' || g), '{}' FROM generate_series(1, 500) g;
INSERT INTO feature_flags SELECT 'flag-' || g, ARRAY[int4range(0, g), int4range(g + 10, NULL)] FROM generate_series(1, 30) g;
SELECT nextval('ticket_numbers') FROM generate_series(1, 12);

CREATE INDEX traces_project ON traces (project_id, started_at DESC);
CREATE INDEX traces_user ON traces (user_ref) WHERE user_ref IS NOT NULL;
CREATE INDEX traces_tags ON traces USING gin (tags);
CREATE INDEX observations_trace ON observations (trace_id);
CREATE INDEX observations_time ON observations USING brin (started_at);
CREATE INDEX scores_trace ON scores (trace_id);
CREATE INDEX prompts_body ON prompts USING gin (body gin_trgm_ops);
CREATE INDEX events_at ON events (at);
ALTER TABLE scores ADD CONSTRAINT scores_trace_fk FOREIGN KEY (trace_id) REFERENCES traces;
REFRESH MATERIALIZED VIEW daily_usage;
CREATE UNIQUE INDEX ON daily_usage (day, model);
ANALYZE;
