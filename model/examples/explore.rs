#![allow(missing_docs)]
use heliox_model::check::Report;
use heliox_model::check::{Exhaustive, Progress, explore};
use heliox_model::hal::{
    Checks,
    geometry::{WithGeometry, with_geometry},
};
use heliox_model::machine::{Machine, Sizes};
struct Go(Exhaustive, bool);
impl WithGeometry for Go {
    type Result = Report;
    fn run<G: heliox_types::geometry::Geometry + Send + Sync>(self) -> Report {
        let start = Checks::<G>::boot(&self.0.machine, self.1).unwrap();
        explore(&self.0, start, &|p| {
            if let Progress::States { visited, known } = p {
                if visited % 16384 == 0 {
                    eprintln!("{visited} {known}");
                }
            }
        })
    }
}
fn main() {
    let mut sizes = Sizes::SMALL;
    let mut layers = heliox_model::layers::Layers::NONE;
    let mut max = u64::MAX;
    let mut relation = true;
    let mut cons = true;
    let mut nosym = false;
    let mut spec = false;
    let mut audit = true;
    let mut rights = None;
    let mut shares = None;
    let mut uv = None;
    let mut extras = None;
    for a in std::env::args().skip(1) {
        let (k, v) = a.split_once('=').unwrap();
        match k {
            "levels" => sizes.levels = v.parse().unwrap(),
            "entries" => sizes.entries = v.parse().unwrap(),
            "ue" => sizes.user_entries = v.parse().unwrap(),
            "used" => sizes.used_pages = Some(v.parse().unwrap()),
            "env" => sizes.environment = v.parse().unwrap(),
            "pages" => sizes.pages = v.parse().unwrap(),
            "devices" => sizes.devices = v.parse().unwrap(),
            "cpus" => sizes.cpus = v.parse().unwrap(),
            "domains" => sizes.domains = v.parse().unwrap(),
            "layers" => layers = v.parse().unwrap(),
            "max" => max = v.parse().unwrap(),
            "relation" => relation = v == "1",
            "cons" => cons = v == "1",
            "spec" => spec = v == "1",
            "audit" => audit = v == "1",
            "nosym" => nosym = v == "1",
            "rights" => rights = Some(v.parse::<usize>().unwrap()),
            "shares" => shares = Some(v.parse::<usize>().unwrap()),
            "extras" => extras = Some(v.parse::<u32>().unwrap()),
            "uv" => uv = Some(v == "1"),
            _ => panic!(),
        }
    }
    let machine = Machine::new(sizes, layers).unwrap();
    eprintln!("{} frames, {} kernel tables", machine.frames(), machine.kernel_tables().len());
    let mut search = Exhaustive::new(machine);
    search.most_states = max;
    search.with_relation = relation;
    search.with_consistency = cons;
    search.without_symmetry = nosym;
    search.with_audit = audit;
    if let Some(r) = rights {
        search.universe.rights.truncate(r);
    }
    if let Some(r) = shares {
        search.universe.shares = r;
    }
    if let Some(r) = uv {
        search.universe.user_visible = r;
    }
    search.universe.extras = extras;
    let machine = search.machine.clone();
    let report = with_geometry(&machine, Go(search, spec)).unwrap();
    for c in &report.cases {
        if std::env::var("CASES").is_ok() {
            println!("{:?} {} {}: {}", c.condition, c.kind.name, c.observer, c.checked);
        }
    }
    println!(
        "{} states, {} transitions, {} refusals, depth {}, complete {}, {:?}",
        report.states,
        report.transitions,
        report.refusals,
        report.depth,
        report.complete,
        report.elapsed
    );
    if let Some(v) = report.violation {
        println!("{v}");
    }
}
