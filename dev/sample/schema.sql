-- A made-up product that looks like an LLM observability stack's database: what people do with
-- PostgreSQL, in one place, so that a drill on it means something.
CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE SCHEMA billing;
CREATE SCHEMA "Archive 2024";
CREATE TYPE trace_level AS ENUM ('DEBUG', 'DEFAULT', 'WARNING', 'ERROR');
CREATE TYPE member_role AS ENUM ('owner', 'admin', 'member', 'viewer');
CREATE TYPE money_range AS RANGE (subtype = numeric);
CREATE TYPE address AS (street text, city text, zip text);
CREATE DOMAIN email AS text CHECK (VALUE ~ '^[^@ ]+@[^@ ]+$');

CREATE TABLE organizations (id uuid PRIMARY KEY, name text NOT NULL, home address, created_at timestamptz NOT NULL);
CREATE TABLE projects (id uuid PRIMARY KEY, org_id uuid NOT NULL REFERENCES organizations, name text NOT NULL, settings jsonb NOT NULL DEFAULT '{}', deleted_at timestamptz, UNIQUE (org_id, name));
CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, address email NOT NULL UNIQUE, display_name text, password_hash bytea, preferences jsonb, created_at timestamptz NOT NULL);
CREATE TABLE memberships (user_id bigint REFERENCES users, org_id uuid REFERENCES organizations, role member_role NOT NULL, PRIMARY KEY (user_id, org_id));
CREATE TABLE api_keys (id serial PRIMARY KEY, project_id uuid NOT NULL REFERENCES projects, hashed text NOT NULL, note text, expires date);
CREATE TABLE prompts (id serial PRIMARY KEY, project_id uuid NOT NULL REFERENCES projects, name text NOT NULL, version int NOT NULL, body text NOT NULL, labels text[] NOT NULL DEFAULT '{}', UNIQUE (project_id, name, version));
CREATE TABLE models (id serial PRIMARY KEY, name text NOT NULL, price money_range, unit text, valid daterange);
CREATE TABLE traces (
	id uuid PRIMARY KEY, project_id uuid NOT NULL, name text, user_ref text, session_ref text, input jsonb, output jsonb, metadata jsonb,
	tags text[], public boolean NOT NULL DEFAULT false, started_at timestamptz NOT NULL, latency interval,
	day date GENERATED ALWAYS AS ((started_at AT TIME ZONE 'UTC')::date) STORED
);
CREATE TABLE observations (
	id bigint PRIMARY KEY, trace_id uuid NOT NULL, parent_id bigint, kind text NOT NULL, level trace_level NOT NULL DEFAULT 'DEFAULT',
	model text, prompt_tokens int, completion_tokens int, cost numeric(18, 9), body text, started_at timestamptz NOT NULL, ended_at timestamptz
);
CREATE TABLE scores (id bigserial PRIMARY KEY, trace_id uuid NOT NULL, name text NOT NULL, value double precision, comment text, created_at timestamp NOT NULL);
CREATE TABLE events (id bigint NOT NULL, at timestamptz NOT NULL, kind trace_level NOT NULL, payload jsonb) PARTITION BY RANGE (at);
CREATE TABLE events_2026_09 PARTITION OF events FOR VALUES FROM ('2026-09-01') TO ('2026-10-01');
CREATE TABLE events_2026_10 PARTITION OF events FOR VALUES FROM ('2026-10-01') TO ('2026-11-01');
CREATE TABLE events_rest PARTITION OF events DEFAULT;
CREATE TABLE usage_by_level (level trace_level NOT NULL, n bigint NOT NULL) PARTITION BY HASH (level);
CREATE TABLE usage_by_level_0 PARTITION OF usage_by_level FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE usage_by_level_1 PARTITION OF usage_by_level FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE billing.invoices (id serial PRIMARY KEY, org_id uuid NOT NULL REFERENCES organizations, period daterange NOT NULL, total numeric(12, 2) NOT NULL CHECK (total >= 0), paid boolean);
CREATE TABLE billing.lines (invoice_id int REFERENCES billing.invoices ON DELETE CASCADE, no int, what text, amount numeric(12, 2), PRIMARY KEY (invoice_id, no));
CREATE TABLE "Archive 2024"."Müller's ""old"" table" ("Straße" text, "x y" int, t text);
CREATE TABLE media (id serial PRIMARY KEY, project_id uuid NOT NULL, name text, content oid);
CREATE TABLE datasets (id uuid PRIMARY KEY, project_id uuid NOT NULL, name text);
CREATE TABLE dataset_items (id uuid PRIMARY KEY, dataset_id uuid NOT NULL REFERENCES datasets, input jsonb, expected jsonb);
CREATE TABLE documents (id serial PRIMARY KEY, body text NOT NULL, blob bytea);
CREATE TABLE audit_base (id bigserial, at timestamptz NOT NULL DEFAULT now(), who text);
CREATE TABLE audit_login (ip inet) INHERITS (audit_base);
CREATE TABLE audit_change (what jsonb) INHERITS (audit_base);
CREATE UNLOGGED TABLE sessions_cache (token text PRIMARY KEY, data jsonb);
CREATE TABLE feature_flags (name text PRIMARY KEY, on_for int4range[]);
CREATE TABLE nothing_yet (id int);
CREATE SEQUENCE ticket_numbers START 1000 INCREMENT 7;

CREATE VIEW trace_costs AS SELECT t.project_id, t.id, sum(o.cost) AS cost, count(*) AS observations FROM traces t JOIN observations o ON o.trace_id = t.id GROUP BY t.project_id, t.id;
CREATE MATERIALIZED VIEW daily_usage AS SELECT date_trunc('day', started_at) AS day, model, sum(prompt_tokens + completion_tokens) AS tokens FROM observations GROUP BY 1, 2 WITH NO DATA;
CREATE FUNCTION trace_cost(id uuid) RETURNS numeric LANGUAGE sql STABLE AS 'SELECT sum(cost) FROM public.observations WHERE trace_id = $1';
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.at := coalesce(NEW.at, now()); RETURN NEW; END $$;
CREATE TRIGGER stamp BEFORE INSERT ON audit_base FOR EACH ROW EXECUTE FUNCTION stamp();
ALTER TABLE api_keys ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_keys ON api_keys USING (project_id::text = current_setting('app.project', true));
COMMENT ON TABLE traces IS 'one request of a user, with everything below it';
