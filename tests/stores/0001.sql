BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE artifacts (
	run_key INTEGER NOT NULL, 
	name VARCHAR NOT NULL, 
	path VARCHAR NOT NULL, 
	sha256 VARCHAR NOT NULL, 
	bytes BIGINT NOT NULL, 
	CONSTRAINT pk_artifacts PRIMARY KEY (run_key, name), 
	CONSTRAINT fk_artifacts_run_key FOREIGN KEY(run_key) REFERENCES runs ("key")
)
 WITHOUT ROWID

;
INSERT INTO "artifacts" VALUES(1,'weights','x/weights','sha',3);
CREATE TABLE attempts (
	id INTEGER NOT NULL, 
	run_key INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	owner_id INTEGER NOT NULL, 
	host VARCHAR, 
	device VARCHAR, 
	versions VARCHAR, 
	git_commit VARCHAR, 
	git_dirty BOOLEAN, 
	claimed DOUBLE NOT NULL, 
	started DOUBLE, 
	heartbeat DOUBLE, 
	ended DOUBLE, 
	resumed_from INTEGER, 
	outcome VARCHAR, 
	irreproducible BOOLEAN NOT NULL, 
	error VARCHAR, 
	traceback VARCHAR, 
	peak_memory BIGINT, 
	CONSTRAINT pk_attempts PRIMARY KEY (id), 
	CONSTRAINT ck_attempts_outcome CHECK (outcome IS NULL OR outcome IN ('done', 'diverged', 'failed', 'paused', 'died', 'lost')), 
	CONSTRAINT fk_attempts_owner_id FOREIGN KEY(owner_id) REFERENCES owners (id), 
	CONSTRAINT fk_attempts_run_key FOREIGN KEY(run_key) REFERENCES runs ("key"), 
	CONSTRAINT uq_attempts_run_key_number UNIQUE (run_key, number)
);
INSERT INTO "attempts" VALUES(1,1,1,1,'host','cpu','{"torch":"2.9"}','c0ffee',0,1.79536392213981556894e+09,1.79536392214193773271e+09,NULL,1.79536392214791679384e+09,NULL,'done',0,NULL,NULL,7);
INSERT INTO "attempts" VALUES(2,2,1,1,'host','cpu','{"torch":"2.9"}','c0ffee',0,1.795363922152251482e+09,1.79536392215347957615e+09,1.79536392215480232244e+09,1.79536392215589594837e+09,NULL,'died',0,'killed',NULL,NULL);
INSERT INTO "attempts" VALUES(3,2,2,1,'host','cpu','{"torch":"2.9"}','c0ffee',0,1795363922.16051,1.79536392216113972666e+09,NULL,1.79536392216389703753e+09,NULL,'done',0,NULL,NULL,NULL);
INSERT INTO "attempts" VALUES(4,3,1,1,'host','cpu','{"torch":"2.9"}','c0ffee',0,1.79536392216866350175e+09,1.79536392216918301578e+09,NULL,1.7953639221732373238e+09,NULL,'diverged',0,'not finite',NULL,NULL);
INSERT INTO "attempts" VALUES(5,4,1,1,'host','cpu','{"torch":"2.9"}','c0ffee',0,1.7953639221772258282e+09,1.79536392217788815491e+09,NULL,1.79536392217923760411e+09,NULL,'failed',0,'ValueError: x','Traceback (most recent call last): …',NULL);
INSERT INTO "attempts" VALUES(6,5,1,1,'host','cpu','{"torch":"2.9"}','c0ffee',0,1.79536392218974781035e+09,1.79536392219187259668e+09,NULL,1.79536392219366121294e+09,NULL,'paused',0,NULL,NULL,NULL);
INSERT INTO "attempts" VALUES(7,6,1,2,'host','cpu','{"torch":"2.9"}','c0ffee',0,1.79536392220120406154e+09,1.79536392220178651814e+09,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL);
CREATE TABLE dependencies (
	run_key INTEGER NOT NULL, 
	needs_key INTEGER NOT NULL, 
	CONSTRAINT pk_dependencies PRIMARY KEY (run_key, needs_key), 
	CONSTRAINT fk_dependencies_needs_key FOREIGN KEY(needs_key) REFERENCES runs ("key"), 
	CONSTRAINT fk_dependencies_run_key FOREIGN KEY(run_key) REFERENCES runs ("key")
)
 WITHOUT ROWID

;
INSERT INTO "dependencies" VALUES(2,1);
CREATE TABLE epochs (
	run_key INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	train_loss DOUBLE, 
	train_accuracy DOUBLE, 
	learning_rate DOUBLE NOT NULL, 
	seconds DOUBLE NOT NULL, 
	images_per_second DOUBLE NOT NULL, 
	CONSTRAINT pk_epochs PRIMARY KEY (run_key, epoch), 
	CONSTRAINT fk_epochs_run_key FOREIGN KEY(run_key) REFERENCES runs ("key")
)
 WITHOUT ROWID

;
INSERT INTO "epochs" VALUES(1,0,1,NULL,NULL,0.1,0.0,0.0);
INSERT INTO "epochs" VALUES(1,1,1,1.0,0.5,0.1,0.0,0.0);
INSERT INTO "epochs" VALUES(2,0,1,NULL,NULL,0.1,0.0,0.0);
INSERT INTO "epochs" VALUES(2,1,1,1.0,0.5,0.1,0.0,0.0);
INSERT INTO "epochs" VALUES(2,2,2,0.5,0.5,0.1,0.0,0.0);
INSERT INTO "epochs" VALUES(3,0,1,NULL,NULL,0.1,0.0,0.0);
INSERT INTO "epochs" VALUES(4,0,1,NULL,NULL,0.1,0.0,0.0);
INSERT INTO "epochs" VALUES(5,0,1,NULL,NULL,0.1,0.0,0.0);
INSERT INTO "epochs" VALUES(6,0,1,NULL,NULL,0.1,0.0,0.0);
CREATE TABLE metrics (
	run_key INTEGER NOT NULL, 
	split VARCHAR NOT NULL, 
	"group" VARCHAR NOT NULL, 
	metric VARCHAR NOT NULL, 
	epoch INTEGER NOT NULL, 
	value DOUBLE NOT NULL, 
	correct INTEGER, 
	n INTEGER, 
	CONSTRAINT pk_metrics PRIMARY KEY (run_key, split, "group", metric, epoch), 
	CONSTRAINT fk_metrics_run_key_epoch FOREIGN KEY(run_key, epoch) REFERENCES epochs (run_key, epoch)
)
 WITHOUT ROWID

;
INSERT INTO "metrics" VALUES(1,'id','','accuracy',0,0.5,NULL,100);
INSERT INTO "metrics" VALUES(1,'id','','accuracy',1,0.51,NULL,100);
INSERT INTO "metrics" VALUES(1,'ood','','accuracy',0,0.5,NULL,100);
INSERT INTO "metrics" VALUES(1,'ood','','accuracy',1,0.51,NULL,100);
INSERT INTO "metrics" VALUES(2,'id','','accuracy',0,0.5,NULL,100);
INSERT INTO "metrics" VALUES(2,'id','','accuracy',1,0.51,NULL,100);
INSERT INTO "metrics" VALUES(2,'id','','accuracy',2,0.52,NULL,100);
INSERT INTO "metrics" VALUES(2,'ood','','accuracy',0,0.5,NULL,100);
INSERT INTO "metrics" VALUES(2,'ood','','accuracy',1,0.51,NULL,100);
INSERT INTO "metrics" VALUES(2,'ood','','accuracy',2,0.52,NULL,100);
INSERT INTO "metrics" VALUES(3,'id','','accuracy',0,0.5,NULL,100);
INSERT INTO "metrics" VALUES(3,'ood','','accuracy',0,0.5,NULL,100);
INSERT INTO "metrics" VALUES(4,'id','','accuracy',0,0.5,NULL,100);
INSERT INTO "metrics" VALUES(4,'ood','','accuracy',0,0.5,NULL,100);
INSERT INTO "metrics" VALUES(5,'id','','accuracy',0,0.5,NULL,100);
INSERT INTO "metrics" VALUES(5,'ood','','accuracy',0,0.5,NULL,100);
INSERT INTO "metrics" VALUES(6,'id','','accuracy',0,0.5,NULL,100);
INSERT INTO "metrics" VALUES(6,'ood','','accuracy',0,0.5,NULL,100);
CREATE TABLE owners (
	id INTEGER NOT NULL, 
	host VARCHAR NOT NULL, 
	pid INTEGER NOT NULL, 
	boot_id VARCHAR NOT NULL, 
	process_started VARCHAR NOT NULL, 
	started DOUBLE NOT NULL, 
	heartbeat DOUBLE NOT NULL, 
	ended DOUBLE, 
	CONSTRAINT pk_owners PRIMARY KEY (id)
);
INSERT INTO "owners" VALUES(1,'elsewhere.example',4711,'boot','77',1.7953639221306085587e+09,1.7953639221306085587e+09,1.79536392219695162776e+09);
INSERT INTO "owners" VALUES(2,'elsewhere.example',4711,'boot','77',1.79536392219794440272e+09,1.79536392219794440272e+09,NULL);
CREATE TABLE runs (
	"key" INTEGER NOT NULL, 
	id VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	model VARCHAR NOT NULL, 
	dataset VARCHAR NOT NULL, 
	method VARCHAR NOT NULL, 
	learning_rate DOUBLE NOT NULL, 
	hyperparameters VARCHAR NOT NULL, 
	seed INTEGER NOT NULL, 
	variant VARCHAR NOT NULL, 
	epochs INTEGER NOT NULL, 
	content VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	owner_id INTEGER, 
	fence INTEGER NOT NULL, 
	data_fingerprint VARCHAR, 
	weights_sha256 VARCHAR, 
	CONSTRAINT pk_runs PRIMARY KEY ("key"), 
	CONSTRAINT ck_runs_owned_while_running CHECK ((state = 'running') = (owner_id IS NOT NULL)), 
	CONSTRAINT ck_runs_state CHECK (state IN ('pending', 'running', 'done', 'diverged', 'failed')), 
	CONSTRAINT fk_runs_owner_id FOREIGN KEY(owner_id) REFERENCES owners (id), 
	CONSTRAINT uq_runs_id UNIQUE (id)
);
INSERT INTO "runs" VALUES(1,'5bd32ad96ba5f446','pretrain','toy','toy','sgd',0.1,'{}',0,'01e12b85',1,'{"batch_size":32,"clip_norm":null,"dataset":"toy","dataset_version":1,"epochs":1,"evaluate":["id","ood"],"evaluate_on_improvement":[],"hyperparameters":[],"kind":"pretrain","kind_version":1,"learning_rate":0.1,"method":"sgd","method_version":1,"micro_batch":16,"model":"toy","model_version":1,"precision":"fp32","schedule":"cosine_per_step","seed":0,"threads":1,"weight_decay":0.0,"weights":"random"}','done',NULL,1,'data-1','weights-1');
INSERT INTO "runs" VALUES(2,'1e32afb622ef0470','finetune','toy','toy','sgd',0.1,'{}',0,'7454347e',2,'{"batch_size":32,"clip_norm":null,"dataset":"toy","dataset_version":1,"epochs":2,"evaluate":["id","ood"],"evaluate_on_improvement":[],"hyperparameters":[],"kind":"finetune","kind_version":1,"learning_rate":0.1,"method":"sgd","method_version":1,"micro_batch":16,"model":"toy","model_version":1,"precision":"fp32","schedule":"cosine_per_step","seed":0,"threads":1,"weight_decay":0.0,"weights":"run:5bd32ad96ba5f446"}','done',NULL,2,'data-1','weights-1');
INSERT INTO "runs" VALUES(3,'b36678348e08abc1','finetune','toy','toy','sgd',0.1,'{}',1,'189da418',1,'{"batch_size":32,"clip_norm":null,"dataset":"toy","dataset_version":1,"epochs":1,"evaluate":["id","ood"],"evaluate_on_improvement":[],"hyperparameters":[],"kind":"finetune","kind_version":1,"learning_rate":0.1,"method":"sgd","method_version":1,"micro_batch":16,"model":"toy","model_version":1,"precision":"fp32","schedule":"cosine_per_step","seed":1,"threads":1,"weight_decay":0.0,"weights":"random"}','diverged',NULL,1,'data-1','weights-1');
INSERT INTO "runs" VALUES(4,'3311ddf96aa21fd9','finetune','toy','toy','sgd',0.1,'{}',2,'189da418',1,'{"batch_size":32,"clip_norm":null,"dataset":"toy","dataset_version":1,"epochs":1,"evaluate":["id","ood"],"evaluate_on_improvement":[],"hyperparameters":[],"kind":"finetune","kind_version":1,"learning_rate":0.1,"method":"sgd","method_version":1,"micro_batch":16,"model":"toy","model_version":1,"precision":"fp32","schedule":"cosine_per_step","seed":2,"threads":1,"weight_decay":0.0,"weights":"random"}','failed',NULL,1,'data-1','weights-1');
INSERT INTO "runs" VALUES(5,'43738dc3ff369f41','finetune','toy','toy','sgd',0.1,'{}',3,'189da418',1,'{"batch_size":32,"clip_norm":null,"dataset":"toy","dataset_version":1,"epochs":1,"evaluate":["id","ood"],"evaluate_on_improvement":[],"hyperparameters":[],"kind":"finetune","kind_version":1,"learning_rate":0.1,"method":"sgd","method_version":1,"micro_batch":16,"model":"toy","model_version":1,"precision":"fp32","schedule":"cosine_per_step","seed":3,"threads":1,"weight_decay":0.0,"weights":"random"}','pending',NULL,1,'data-1','weights-1');
INSERT INTO "runs" VALUES(6,'49fb44e4ba725e7a','finetune','toy','toy','sgd',0.1,'{}',4,'189da418',1,'{"batch_size":32,"clip_norm":null,"dataset":"toy","dataset_version":1,"epochs":1,"evaluate":["id","ood"],"evaluate_on_improvement":[],"hyperparameters":[],"kind":"finetune","kind_version":1,"learning_rate":0.1,"method":"sgd","method_version":1,"micro_batch":16,"model":"toy","model_version":1,"precision":"fp32","schedule":"cosine_per_step","seed":4,"threads":1,"weight_decay":0.0,"weights":"random"}','running',2,1,'data-1','weights-1');
INSERT INTO "runs" VALUES(7,'2b2905b6afbebac5','finetune','toy','toy','sgd',0.1,'{}',5,'189da418',1,'{"batch_size":32,"clip_norm":null,"dataset":"toy","dataset_version":1,"epochs":1,"evaluate":["id","ood"],"evaluate_on_improvement":[],"hyperparameters":[],"kind":"finetune","kind_version":1,"learning_rate":0.1,"method":"sgd","method_version":1,"micro_batch":16,"model":"toy","model_version":1,"precision":"fp32","schedule":"cosine_per_step","seed":5,"threads":1,"weight_decay":0.0,"weights":"random"}','pending',NULL,0,NULL,NULL);
CREATE TABLE sweep_runs (
	sweep_id INTEGER NOT NULL, 
	run_key INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	requested BOOLEAN NOT NULL, 
	CONSTRAINT pk_sweep_runs PRIMARY KEY (sweep_id, run_key), 
	CONSTRAINT fk_sweep_runs_run_key FOREIGN KEY(run_key) REFERENCES runs ("key"), 
	CONSTRAINT fk_sweep_runs_sweep_id FOREIGN KEY(sweep_id) REFERENCES sweeps (id)
)
 WITHOUT ROWID

;
INSERT INTO "sweep_runs" VALUES(1,1,0,0);
INSERT INTO "sweep_runs" VALUES(1,2,1,1);
INSERT INTO "sweep_runs" VALUES(1,3,2,1);
INSERT INTO "sweep_runs" VALUES(1,4,3,1);
INSERT INTO "sweep_runs" VALUES(1,5,4,1);
INSERT INTO "sweep_runs" VALUES(1,6,5,1);
INSERT INTO "sweep_runs" VALUES(1,7,6,1);
INSERT INTO "sweep_runs" VALUES(2,3,0,1);
INSERT INTO "sweep_runs" VALUES(2,4,1,1);
CREATE TABLE sweeps (
	id INTEGER NOT NULL, 
	name VARCHAR NOT NULL, 
	yaml VARCHAR NOT NULL, 
	spec_hash VARCHAR NOT NULL, 
	created DOUBLE NOT NULL, 
	CONSTRAINT pk_sweeps PRIMARY KEY (id), 
	CONSTRAINT uq_sweeps_name UNIQUE (name)
);
INSERT INTO "sweeps" VALUES(1,'first','name: first
','df82c26e2d8b342a',1.79536392212142395974e+09);
INSERT INTO "sweeps" VALUES(2,'second','name: second
','5e7aa9697932b6e1',1.79536392212912940973e+09);
CREATE INDEX ix_runs_model_dataset_method ON runs (model, dataset, method);
CREATE INDEX ix_runs_state ON runs (state);
CREATE INDEX ix_sweep_runs_run_key ON sweep_runs (run_key);
COMMIT;
