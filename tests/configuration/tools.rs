//! Pacemaker's and the validators' tools, run where the agent is installed: in a mount namespace of
//! their own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// The agents by name.
pub const AGENTS: [&str; 2] = ["gate", "block"];

/// Where an installed agent is.
pub fn agent(name: &str) -> String {
    format!("/usr/lib/ocf/resource.d/rolegate/{name}")
}

/// What ocf-tester validates against.
pub const SHARE_DTD: &str = "/usr/share/resource-agents/ra-api-1.dtd";

/// Installs the agents over this machine's agents, seen by what runs after it only.
const INSTALL: &str = r#"
set -eu
mount -t tmpfs rolegate "$1/mnt"
mkdir "$1/mnt/upper" "$1/mnt/work"
mount -t overlay -o lowerdir=/usr/lib/ocf/resource.d,upperdir="$1/mnt/upper",workdir="$1/mnt/work" \
    rolegate /usr/lib/ocf/resource.d
mkdir -p /usr/lib/ocf/resource.d/rolegate
for agent in gate block; do
    install -m 755 "$2" /usr/lib/ocf/resource.d/rolegate/$agent
done
shift 2
exec "$@"
"#;

/// A machine with the agent installed, and a directory for files.
pub struct Machine {
    directory: TempDir,
}

impl Machine {
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root, for a mount namespace of its own");
        let directory = tempfile::Builder::new().prefix("rolegate-configuration").tempdir().unwrap();
        // Others than root read from here too.
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        for name in ["mnt", "home"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        Machine { directory }
    }

    /// A file of this machine.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A command on this machine.
    pub fn command<S: AsRef<OsStr>>(&self, argv: &[S]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", INSTALL, "sh"]);
        command.arg(self.directory.path()).arg(env!("CARGO_BIN_EXE_rolegate-agent")).args(argv);
        command.env("HOME", self.file("home")).env("LC_ALL", "C").env_remove("CIB_file");
        command
    }

    /// Runs `command`, which must succeed, and gives its output.
    pub fn run(command: &mut Command) -> String {
        let output = command.output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
        stdout.into_owned()
    }

    /// Runs what must succeed, and gives its output.
    pub fn ok<S: AsRef<OsStr>>(&self, argv: &[S]) -> String {
        Self::run(&mut self.command(argv))
    }

    /// The metadata of each agent, in files.
    pub fn metadata(&self) -> [(&'static str, PathBuf); 2] {
        AGENTS.map(|name| {
            let path = self.file(&format!("{name}-metadata.xml"));
            std::fs::write(&path, self.ok(&[agent(name).as_str(), "meta-data"])).unwrap();
            (name, path)
        })
    }

    /// Checks a CIB with crm_verify, which must have nothing to say.
    pub fn verify(&self, cib: &str) {
        let path = self.file("verify.xml");
        std::fs::write(&path, cib).unwrap();
        let output =
            self.command(&["crm_verify".as_ref(), "-V".as_ref(), "-x".as_ref(), path.as_os_str()]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.trim().is_empty(), "crm_verify: {}: {said}\n{cib}", output.status);
    }
}

/// The schemas of metadata on this machine: resource-agents' own, and OCF's as pcs has it.
pub fn schemas() -> [String; 2] {
    ["/usr/share/resource-agents/metadata.rng", "/usr/share/pcs/data/ocf-1.1.rng"].map(|path| {
        assert!(Path::new(path).exists(), "{path} is missing: install resource-agents and pcs");
        path.to_owned()
    })
}
