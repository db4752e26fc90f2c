CREATE EXTENSION pg_trgm; CREATE EXTENSION hstore SCHEMA "odd "" schema"; CREATE EXTENSION citext; CREATE EXTENSION btree_gist; CREATE EXTENSION postgres_fdw; CREATE EXTENSION file_fdw;
CREATE INDEX ON customers USING gin (name gin_trgm_ops);
CREATE TABLE extended (a "odd "" schema".hstore, b citext UNIQUE, c xml, d int, e tsrange, EXCLUDE USING gist (d WITH =, e WITH &&)); INSERT INTO extended VALUES ('a=>1,b=>NULL', 'CamelCase', '<a b="c"/>', 1, '[2020-01-01,2020-01-02)'), (NULL, NULL, NULL, NULL, NULL);
CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '/nowhere', dbname 'none'); CREATE USER MAPPING FOR CURRENT_USER SERVER elsewhere OPTIONS (user 'u', password 'p');
CREATE FOREIGN TABLE unreachable (a int) SERVER elsewhere;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw; CREATE FOREIGN TABLE unreadable (a text) SERVER files OPTIONS (filename '/no/such/file');
CREATE VIEW through AS SELECT * FROM unreachable;
COMMENT ON EXTENSION citext IS 'words';
